//! Ports for parts that stop and come back to where they were. Nobody else gets one while its owner lives, whether or not
//! something listens there just now. Refuses the range that the kernel gives to clients' sockets: a test with ten thousand of
//! them would have taken the port of a broker that is being restarted.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's own range (`net.ipv4.ip_local_port_range`, from 32768 where nobody changed it), above what is usually
/// configured. With all of it taken, a test that asks for one fails.
const RANGE: Range<u16> = 20_000..32_000;

/// Places that are tried next, from where this process begins. They go on rather than begin anew, since what still tries to
/// reach a part that is gone must not find another test's part there.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of the loopback interface, until it is dropped.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// A socket with an abstract name: the kernel lets one process have it, takes it back however that process ends, and
    /// knows it in the same network that the ports are of.
    _reserved: net::UnixListener,
}

impl Port {
    /// # Panics
    /// When there is none in the whole range.
    pub fn take() -> Self {
        // processes beside each other begin far apart: it is only that they try less
        let own = std::process::id().wrapping_mul(97);
        let taken = RANGE.clone().find_map(|_| {
            let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let place = own.wrapping_add(next) % u32::from(RANGE.end - RANGE.start);
            Self::reserve(RANGE.start + u16::try_from(place).expect("it is within the range"))
        });
        taken.expect("a port below the clients' range")
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// None where another test has it, or anything else of this machine listens there.
    fn reserve(number: u16) -> Option<Self> {
        let name = net::SocketAddr::from_abstract_name(format!("modelmeter-test-port-{number}"))
            .expect("a short name");
        let port = Self {
            number,
            _reserved: net::UnixListener::bind_addr(&name).ok()?,
        };
        TcpListener::bind(port.address()).is_ok().then_some(port)
    }
}

#[test]
fn a_port_is_its_owners_alone_and_below_the_range_of_clients() {
    let port = Port::take();
    assert!(Port::reserve(port.number).is_none(), "it is reserved");
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("linux");
    let first = range.split_whitespace().next().expect("a number");
    assert!(port.number < first.parse().expect("a number"), "{range}");
    let number = port.number;
    let listener = TcpListener::bind(port.address()).expect("nobody listens");
    drop(port);
    assert!(Port::reserve(number).is_none(), "something listens there");
    drop(listener);
    assert!(Port::reserve(number).is_some());
}
