/* What docs/abi.md says, for C. Nothing here but numbers, layouts and the three things that are not a memory access. */

#ifndef DISTRICT_H
#define DISTRICT_H

#include <stddef.h>
#include <stdint.h>

/* Section 3: the boot page. */

#define BOOT_MAGIC 0x5443495254534944u /* "DISTRICT" */
#define ABI_VERSION 1

struct boot_page {
    uint64_t magic;
    uint32_t abi_version;
    uint32_t reason;
    uint8_t district_id[16];
    uint64_t epoch;
    uint64_t generation;
    uint64_t checkpoint_time;
    uint64_t now;
    uint64_t tsc_base;
    uint64_t clock_scale;
    uint64_t session;
    uint64_t heap_base;
    uint64_t heap_size;
    uint64_t window_base;
    uint64_t window_size;
    uint64_t device_base;
    uint64_t stack_base;
    uint64_t stack_size;
    uint64_t arguments_len;
    uint8_t entropy[64];
};

/* Section 4: calls of the shim. */

#define SHIM_PARK 1
#define SHIM_EXIT 2
#define NO_DEADLINE UINT64_MAX

static inline void park(uint64_t until)
{
    __asm__ volatile("int3" : : "a"(SHIM_PARK), "D"(until) : "memory");
}

static inline _Noreturn void leave(uint8_t code, const char *message, size_t length)
{
    __asm__ volatile("int3" : : "a"(SHIM_EXIT), "D"((uint64_t)code), "S"(message), "d"(length) : "memory");
    __builtin_unreachable();
}

/* Section 5: the device and its queues. */

#define REGISTER_DRIVER_FEATURES 0x020
#define REGISTER_DRIVER_FEATURES_SELECT 0x024
#define REGISTER_QUEUE_SELECT 0x030
#define REGISTER_QUEUE_SIZE 0x038
#define REGISTER_QUEUE_READY 0x044
#define REGISTER_QUEUE_NOTIFY 0x050
#define REGISTER_STATUS 0x070
#define REGISTER_QUEUE_DESCRIPTORS 0x080
#define REGISTER_QUEUE_DRIVER 0x090
#define REGISTER_QUEUE_DEVICE 0x0a0

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

#define FEATURES_LOW (1u << 29) /* VIRTIO_F_EVENT_IDX */
#define FEATURES_HIGH (1u << 0) /* VIRTIO_F_VERSION_1 */

#define REQUEST_QUEUE 0
#define DELIVERY_QUEUE 1

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct used_element {
    uint32_t id;
    uint32_t length;
};

/* Section 6: frames. */

#define DATA_MAX 65536
#define KEYS_MAX 4

#define REQUEST_CALL 1
#define REQUEST_REPLY 3
#define REQUEST_DROP 7
#define REQUEST_EXPORT 10

struct key_slot {
    uint64_t handle;
    uint32_t rights;
    uint32_t copy;
};

struct request {
    uint16_t kind;
    uint8_t key_count;
    uint8_t flags;
    uint32_t data_length;
    uint64_t token;
    uint64_t handle;
    uint64_t operation;
    uint64_t timeout;
    uint64_t argument;
    uint64_t zero[2];
    struct key_slot keys[KEYS_MAX];
};

struct completion {
    uint16_t status;
    uint16_t detail;
    uint8_t key_count;
    uint8_t zero[3];
    uint32_t data_length;
    uint32_t zero2;
    uint64_t token;
    uint64_t result;
    uint64_t keys[KEYS_MAX];
};

#define DELIVERY_MESSAGE 1

struct delivery {
    uint16_t kind;
    uint8_t key_count;
    uint8_t zero;
    uint32_t data_length;
    uint16_t buffers;
    uint16_t zero2[3];
    uint64_t export;
    uint64_t badge;
    uint64_t operation;
    uint64_t reply;
    uint32_t reply_capacity;
    uint32_t zero3[3];
    uint64_t keys[KEYS_MAX];
};

_Static_assert(sizeof(struct boot_page) == 216, "section 3");
_Static_assert(sizeof(struct request) == 128, "section 6.1");
_Static_assert(sizeof(struct completion) == 64, "section 6.2");
_Static_assert(sizeof(struct delivery) == 96, "section 6.3");

#define STATUS_OK 0
#define BOOTSTRAP 1
#define RIGHTS_ALL 0x1fff
#define DIRECTORY_LOOKUP 1
#define DIRECTORY_BIND 4

#endif
