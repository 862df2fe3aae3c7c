//! Socket options that `nix` has no name for, declared by its own macros.
#![expect(missing_docs, reason = "the macro makes the structs; each is named as the kernel names the option")]

use std::mem::offset_of;

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(Ipv6Mtu, GetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU, libc::c_int);
sockopt_impl!(IpMtuDiscover, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Ipv6MtuDiscover, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Ipv6DontFrag, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, libc::c_int);
// Only the start of the structure, which every kernel has: each new kernel appends fields, and an older one than the headers of
// the C library returns a shorter structure, which nix does not accept.
sockopt_impl!(TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u32; TCP_INFO_WORDS]);

/// 32-bit words of the start of `struct tcp_info`, up to and including `tcpi_total_retrans`.
pub const TCP_INFO_WORDS: usize = offset_of!(libc::tcp_info, tcpi_total_retrans) / 4 + 1;
