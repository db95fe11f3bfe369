/* A district in C, with nothing but docs/abi.md: publishes `echo`, which answers every call with the call's own operation,
 * data and keys. It makes one request at a time, which is all that an echo needs. */

#include "district.h"

/* Where things are in the window, which has 256 KiB at least. */
#define CONSUMED 0x0
#define REQUEST_RING 0x1000
#define DELIVERY_RING 0x2000
#define DELIVERY_BUFFERS 0x4000
#define REQUEST_FRAME 0x18000
#define COMPLETION_FRAME 0x29000

#define BUFFER 2048
#define BUFFERS 40 /* The longest delivery takes 33. */
#define COMPLETION_DATA 4096

struct queue {
    uint16_t size;
    volatile struct descriptor *descriptors;
    uint16_t *available;
    uint16_t *used;
    uint16_t published;
    uint16_t taken;
};

static const volatile struct boot_page *boot;
static uint8_t *window;
static uint64_t session, epoch;
static struct queue requests, deliveries;
static uint64_t consumed;

/* What was delivered last: header and data, out of the broker's reach. */
static struct {
    struct delivery header;
    uint8_t data[DATA_MAX];
} message;

/* Compilers call these by themselves. */
void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memset(void *to, int value, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static _Noreturn void fail(const char *why)
{
    leave(1, why, length_of(why));
}

/* Whether the connection that everything here belongs to is still the one that there is. The host may end it between any
 * two instructions; what was read from the window before is then worthless. */
static int connected(void)
{
    return boot->session == session && boot->epoch == epoch;
}

/* Registers. */

static volatile uint32_t *device_register(uint32_t offset)
{
    return (volatile uint32_t *)(boot->device_base + offset);
}

static void place_queue(uint32_t number, struct queue *queue, uint64_t offset, uint16_t size)
{
    uint64_t base = boot->window_base + offset, available = base + 16 * size;
    uint64_t used = (available + 4 + 2 * size + 2 + 3) & ~3ull;

    *queue = (struct queue){ .size = size,
                             .descriptors = (volatile struct descriptor *)base,
                             .available = (uint16_t *)available,
                             .used = (uint16_t *)used };
    *device_register(REGISTER_QUEUE_SELECT) = number;
    *device_register(REGISTER_QUEUE_SIZE) = size;
    *device_register(REGISTER_QUEUE_DESCRIPTORS) = (uint32_t)base;
    *device_register(REGISTER_QUEUE_DRIVER) = (uint32_t)available;
    *device_register(REGISTER_QUEUE_DEVICE) = (uint32_t)used;
    *device_register(REGISTER_QUEUE_READY) = 1;
}

/* Queues. */

static void publish(uint32_t number, struct queue *queue, uint16_t head)
{
    uint16_t old = queue->published, new = old + 1, event;

    __atomic_store_n(&queue->available[2 + old % queue->size], head, __ATOMIC_RELAXED);
    __atomic_store_n(&queue->available[1], new, __ATOMIC_RELEASE);
    queue->published = new;
    /* The device writes its wish and then looks at the index; this side does it the other way round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    event = __atomic_load_n(&queue->used[2 + 4 * queue->size], __ATOMIC_RELAXED);
    if ((uint16_t)(new - event - 1) < (uint16_t)(new - old))
        *device_register(REGISTER_QUEUE_NOTIFY) = number;
}

static uint16_t returned(struct queue *queue)
{
    return __atomic_load_n(&queue->used[1], __ATOMIC_ACQUIRE) - queue->taken;
}

static struct used_element peek(struct queue *queue, uint16_t ahead)
{
    struct used_element *ring = (struct used_element *)&queue->used[2];
    return *(volatile struct used_element *)&ring[(uint16_t)(queue->taken + ahead) % queue->size];
}

/* Parks until the queue has returned `count` chains. Returns 0 if the connection has ended instead. */
static int wait_for(struct queue *queue, uint16_t count)
{
    while (connected()) {
        uint16_t event = queue->taken + count - 1;
        if (returned(queue) >= count)
            return connected();
        __atomic_store_n(&queue->available[2 + queue->size], event, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (returned(queue) < count && connected())
            park(NO_DEADLINE);
    }
    return 0;
}

static void connect(void)
{
    do {
        epoch = boot->epoch;
        session = boot->session;
    } while (epoch != boot->epoch);
    window = (uint8_t *)boot->window_base;
    consumed = 0;

    /* Until the reset the broker may write into the old queues, and wants to find the count of consumed deliveries. The
     * fences are for the compiler: what lies in the window is ordinary memory to it. */
    *device_register(REGISTER_STATUS) = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memset(window, 0, DELIVERY_BUFFERS);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *device_register(REGISTER_STATUS) = STATUS_ACKNOWLEDGE;
    *device_register(REGISTER_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    *device_register(REGISTER_DRIVER_FEATURES_SELECT) = 0;
    *device_register(REGISTER_DRIVER_FEATURES) = FEATURES_LOW;
    *device_register(REGISTER_DRIVER_FEATURES_SELECT) = 1;
    *device_register(REGISTER_DRIVER_FEATURES) = FEATURES_HIGH;
    *device_register(REGISTER_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    place_queue(REQUEST_QUEUE, &requests, REQUEST_RING, 2);
    place_queue(DELIVERY_QUEUE, &deliveries, DELIVERY_RING, 64);
    *device_register(REGISTER_STATUS) =
        STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;

    for (uint16_t index = 0; index < BUFFERS; index++) {
        deliveries.descriptors[index].address = boot->window_base + DELIVERY_BUFFERS + index * BUFFER;
        deliveries.descriptors[index].length = BUFFER;
        deliveries.descriptors[index].flags = DESCRIPTOR_WRITE;
        publish(DELIVERY_QUEUE, &deliveries, index);
    }
}

/* Requests. */

/* Sends a request and waits for its completion. Returns 0 if the connection has ended. */
static int request(struct request *header, const void *data, struct completion *completion)
{
    static uint64_t token;

    header->token = ++token;
    memcpy(window + REQUEST_FRAME, header, sizeof *header);
    memcpy(window + REQUEST_FRAME + sizeof *header, data, header->data_length);
    requests.descriptors[0].address = boot->window_base + REQUEST_FRAME;
    requests.descriptors[0].length = sizeof *header + header->data_length;
    requests.descriptors[0].flags = DESCRIPTOR_NEXT;
    requests.descriptors[0].next = 1;
    requests.descriptors[1].address = boot->window_base + COMPLETION_FRAME;
    requests.descriptors[1].length = sizeof *completion + COMPLETION_DATA;
    requests.descriptors[1].flags = DESCRIPTOR_WRITE;
    publish(REQUEST_QUEUE, &requests, 0);
    if (!wait_for(&requests, 1))
        return 0;
    requests.taken++;
    memcpy(completion, window + COMPLETION_FRAME, sizeof *completion);
    if (connected() && completion->token != token)
        fail("the host completed another request");
    return connected();
}

/* Makes an object and publishes a key to it under the name that the district was granted. */
static int publish_echo(void)
{
    static const char name[] = "publish/echo";
    struct completion export, binder, bound;

    if (!request(&(struct request){ .kind = REQUEST_EXPORT }, NULL, &export))
        return 0;
    if (!request(&(struct request){ .kind = REQUEST_CALL, .handle = BOOTSTRAP, .operation = DIRECTORY_LOOKUP,
                                    .data_length = sizeof name - 1 }, name, &binder))
        return 0;
    if (export.status != STATUS_OK || binder.status != STATUS_OK)
        fail("no right to publish echo");
    if (!request(&(struct request){ .kind = REQUEST_CALL, .handle = binder.keys[0], .operation = DIRECTORY_BIND,
                                    .key_count = 1, .keys = { { export.result, RIGHTS_ALL, 1 } } }, NULL, &bound))
        return 0;
    if (bound.status != STATUS_OK)
        fail("echo cannot be published");
    return request(&(struct request){ .kind = REQUEST_DROP, .handle = binder.keys[0] }, NULL, &bound);
}

/* Deliveries. */

/* The host has broken a rule, unless the connection ended and what was read is of no one's making. */
static int nonsense(void)
{
    if (connected())
        fail("the host delivered nonsense");
    return 0;
}

/* Waits for a delivery and copies it to `message`. Returns 0 if the connection has ended. */
static int receive(void)
{
    uint8_t *to = (uint8_t *)&message, *end = to + sizeof message;
    uint32_t left = sizeof message.header;
    uint16_t buffers = 1, ids[BUFFERS];

    for (uint16_t ahead = 0; ahead < buffers; ahead++) {
        struct used_element used;
        if (!wait_for(&deliveries, ahead + 1))
            return 0;
        used = peek(&deliveries, ahead);
        if (used.id >= BUFFERS || used.length > BUFFER || used.length > end - to)
            return nonsense();
        memcpy(to, window + DELIVERY_BUFFERS + used.id * BUFFER, used.length);
        to += used.length;
        ids[ahead] = used.id;
        if (ahead == 0) {
            buffers = message.header.buffers;
            left += message.header.data_length;
            if (message.header.data_length > DATA_MAX || message.header.key_count > KEYS_MAX || buffers > BUFFERS)
                return nonsense();
        }
        if (used.length > left)
            return nonsense();
        left -= used.length;
    }
    if (left != 0 || !connected())
        return nonsense();
    /* It is this program's now, whatever becomes of it. */
    __atomic_store_n((uint64_t *)(window + CONSUMED), ++consumed, __ATOMIC_SEQ_CST);
    deliveries.taken += buffers;
    for (uint16_t index = 0; index < buffers; index++)
        publish(DELIVERY_QUEUE, &deliveries, ids[index]);
    return 1;
}

/* Gives up the keys that came with the message. */
static int drop_keys(void)
{
    struct completion done;

    for (uint8_t index = 0; index < message.header.key_count; index++)
        if (!request(&(struct request){ .kind = REQUEST_DROP, .handle = message.header.keys[index] }, NULL, &done))
            return 0;
    return 1;
}

static int answer(void)
{
    const struct delivery *call = &message.header;
    struct completion done;
    struct request reply = { .kind = REQUEST_REPLY, .handle = call->reply, .operation = call->operation,
                             .data_length = call->data_length, .key_count = call->key_count };

    if (call->kind != DELIVERY_MESSAGE)
        return 1;
    if (call->reply == 0)
        return drop_keys();
    if (reply.data_length > call->reply_capacity)
        reply.data_length = call->reply_capacity;
    for (uint8_t index = 0; index < call->key_count; index++)
        reply.keys[index] = (struct key_slot){ .handle = call->keys[index], .rights = RIGHTS_ALL };
    if (!request(&reply, message.data, &done))
        return 0;
    /* The caller has given up, say. That is its own business, but the keys are still here. */
    return done.status == STATUS_OK || drop_keys();
}

_Noreturn void _start(const struct boot_page *page)
{
    boot = page;
    if (boot->magic != BOOT_MAGIC || boot->abi_version != ABI_VERSION)
        fail("the host has another ABI");
    for (;;) {
        int serving;
        connect();
        serving = publish_echo();
        while (serving)
            serving = receive() && answer();
    }
}
