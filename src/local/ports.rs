//! Ports of the loopback interface: which are free now. A free port is not reserved: whoever is
//! told one must be ready to find it taken a moment later.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port that nothing listens on now, held until it is dropped so that two choices never agree.
#[derive(Debug)]
pub struct FreePort {
    pub number: u16,
    _held: TcpListener,
}

/// This very port, if nothing holds it.
///
/// # Errors
/// When it is taken, or may not be used (below 1024 without the privilege).
pub fn claim(port: u16) -> io::Result<FreePort> {
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    Ok(FreePort {
        number: held.local_addr()?.port(),
        _held: held,
    })
}

/// Any free port.
///
/// # Errors
/// When the system has none left.
pub fn claim_any() -> io::Result<FreePort> {
    claim(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_taken_until_it_is_dropped() {
        let first = claim_any().expect("a free port");
        let number = first.number;
        assert_eq!(
            claim(number).expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        assert_eq!(claim(number).expect("free again").number, number);
    }
}
