use super::*;
use crate::features::supported_cpuid;
use crate::report::Ended;
use crate::tests::Host;
use district_protocol::boot::ARGUMENTS_MAX;

#[test]
fn messages_survive_the_socket() {
    let Some(host) = Host::get() else { return };
    let path = std::env::temp_dir().join(format!("district-control-{}.sock", std::process::id()));
    let listener = listen(&path).unwrap();
    assert!(VmmEnd::accept(listener.as_fd()).unwrap().is_none(), "nobody there");
    let daemon = DaemonEnd::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let vmm = VmmEnd::accept(listener.as_fd()).unwrap().unwrap();
    assert!(daemon.receive().unwrap().is_none() && vmm.receive().unwrap().is_none(), "nothing yet");

    let mut start = host.start();
    start.name = "n\u{e4}me \"quoted\"".into();
    start.arguments = vec!["x".repeat(ARGUMENTS_MAX - 1)];
    start.check().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    daemon.prepare(host.cpuid.clone(), file.as_fd()).unwrap();
    daemon.start(start.clone(), &StartFiles::program(&file.as_fd(), file.as_fd())).unwrap();
    daemon.run().unwrap();
    daemon.channel(file.as_fd()).unwrap();
    daemon.stop().unwrap();
    let (message, fds) = vmm.receive().unwrap().unwrap();
    assert_eq!((message, fds.len()), (ToVmm::Prepare(host.cpuid.clone()), 1));
    let (message, fds) = vmm.receive().unwrap().unwrap();
    assert_eq!((message, fds.len()), (ToVmm::Start(Box::new(start)), 2));
    assert_eq!(vmm.receive().unwrap().unwrap().0, ToVmm::Run);
    let (message, fds) = vmm.receive().unwrap().unwrap();
    assert_eq!((message, fds.len()), (ToVmm::Channel, 1));
    assert_eq!(vmm.receive().unwrap().unwrap().0, ToVmm::Stop);

    let report = Ended::Exit { code: 3, message: "\u{fffd}\0\n".repeat(1000) };
    vmm.send(&FromVmm::Ended(report.clone()), None).unwrap();
    assert_eq!(daemon.receive().unwrap().unwrap().0, FromVmm::Ended(report));
    drop(vmm);
    assert!(matches!(daemon.receive(), Err(ControlError::Closed)));
    assert!(matches!(daemon.stop(), Err(ControlError::Closed)));
}

#[test]
fn a_daemon_that_does_not_read_is_noticed() {
    let (socket, _daemon) = socket_pair();
    let (vmm, mut sent) = (VmmEnd { socket }, 0);
    let error = loop {
        match vmm.send(&FromVmm::Running, None) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ControlError::Stuck), "after {sent}: {error}");
}

fn socket_pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

#[test]
fn the_processor_survives_serialisation_and_is_limited() {
    let Some(_) = Host::get() else { return };
    let cpuid = supported_cpuid(&kvm_ioctls::Kvm::new().unwrap()).unwrap();
    let text = serde_json::to_string(&cpuid).unwrap();
    assert!(text.len() < 4096, "{} bytes", text.len());
    assert_eq!(serde_json::from_str::<Cpuid>(&text).unwrap(), cpuid);
    let leaves = vec!["[0,0,0,0,0,0]"; 65].join(",");
    let many: Cpuid = serde_json::from_str(&format!("{{\"leaves\":[{leaves}]}}")).unwrap();
    assert!(many.to_kvm().is_none());
}
