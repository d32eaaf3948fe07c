//! A port that can be listened on again and again.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// The lowest port that is taken here.
const LOWEST: u16 = 10_000;
/// Where the ports for outgoing connections begin, where the system does not tell.
const OUTGOING: u16 = 32_768;

/// A port of the loopback interface that nobody listened on a moment ago, and that the system gives to
/// no outgoing connection. Whoever stops and listens there again finds it free: a client that dials a
/// port of the other kind while nobody listens may be given this very port to dial from, and then has it.
pub fn quiet_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next();
    let outgoing = outgoing.and_then(|port| port.parse().ok());
    let above = outgoing.unwrap_or(OUTGOING).max(LOWEST + 1_000);
    let random = RandomState::new();
    (0..1_000_u32)
        .map(|n| random.hash_one(n) % u64::from(above - LOWEST))
        .map(|n| LOWEST + u16::try_from(n).expect("less than a port"))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("the loopback interface has a free port")
}
