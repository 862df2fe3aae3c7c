//! Socket options that `nix` has no name for, declared by its own macros.
#![expect(missing_docs, reason = "the macro makes the structs; each is named as the kernel names the option")]

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(Ipv6Mtu, GetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU, libc::c_int);
sockopt_impl!(IpMtuDiscover, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Ipv6MtuDiscover, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int);
sockopt_impl!(Ipv6DontFrag, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, libc::c_int);
sockopt_impl!(TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info);
