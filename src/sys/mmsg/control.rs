//! What comes with a datagram beside its bytes: the name of its sender, and the
//! control message that tells where it was sent to, which goes back with the reply
//! (cmsg(3), ip(7), ipv6(7)).

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{c_int, c_uint, c_void, sockaddr_storage, socklen_t};

/// Room for one control message of either family, as aligned as cmsg(3) wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; 64]);

impl Control {
    pub(super) const EMPTY: Control = Control([0; 64]);
}

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An Internet address.
    Inet(SocketAddr),
    /// A Unix socket with a name, and the user that sent it, if the kernel noted it.
    Unix(Option<u32>),
    /// A Unix socket without one: nobody can answer it.
    Unnamed,
}

/// Where a datagram was sent to, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its destination address.
    pub address: IpAddr,
    /// Whether that is one machine's address, ours, rather than many machines'.
    pub unicast: bool,
    /// Index of the interface it came by.
    pub interface: u32,
}

pub(super) fn sender(name: &sockaddr_storage, header: &libc::msghdr) -> Sender {
    let length = header.msg_namelen as usize;
    match c_int::from(name.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: a sockaddr_storage is large and aligned enough for any
            // address; the family and length say that this one is here.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Sender::Inet(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Sender::Inet(SocketAddr::V6(SocketAddrV6::new(
                v6.sin6_addr.s6_addr.into(),
                u16::from_be(v6.sin6_port),
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            )))
        }
        libc::AF_UNIX if length > size_of::<libc::sa_family_t>() => Sender::Unix(user(header)),
        _ => Sender::Unnamed,
    }
}

/// The bytes of a Unix socket's name, a path without its NUL; empty if it has none.
pub(super) fn unix_name(name: &sockaddr_storage, length: socklen_t) -> &[u8] {
    const FAMILY: usize = size_of::<libc::sa_family_t>();
    let whole = size_of::<sockaddr_storage>();
    // SAFETY: a sockaddr_storage is so many bytes, all of them set: zeroed at first,
    // and written over since by the kernel and by us.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(name).cast(), whole) };
    let unix = c_int::from(name.ss_family) == libc::AF_UNIX;
    match bytes.get(FAMILY..(length as usize).min(whole)) {
        Some([0, ..]) if unix => &bytes[FAMILY..(length as usize).min(whole)],
        Some(path) if unix => path.split(|&byte| byte == 0).next().unwrap_or(path),
        _ => &[],
    }
}

/// Makes that the name of a Unix socket at this path; the length it has now.
pub(super) fn set_unix_path(name: &mut sockaddr_storage, path: &[u8]) -> socklen_t {
    // SAFETY: a sockaddr_storage is large and aligned enough for any address, and
    // a sockaddr_un is integers only.
    let unix = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_un>() };
    unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = unix.sun_path.len() - 1;
    let path = &path[..path.len().min(room)];
    for (to, &from) in unix.sun_path.iter_mut().zip(path) {
        *to = from as libc::c_char;
    }
    unix.sun_path[path.len()] = 0;
    (std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1) as socklen_t
}

/// What a control message is about.
enum Info {
    /// Where the datagram was sent to.
    V4(*mut libc::in_pktinfo),
    V6(*mut libc::in6_pktinfo),
    /// Whose it is.
    Credentials(*mut libc::ucred),
}

/// Room for the last of these and no more: where there is more, the kernel opens
/// here whatever descriptors a client sends along (SCM_RIGHTS, unix(7)); without,
/// it closes them.
pub(super) const CREDENTIALS: usize =
    // SAFETY: it only computes a length.
    unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as c_uint) } as usize;

/// The user that sent it.
fn user(header: &libc::msghdr) -> Option<u32> {
    match info(header)? {
        // SAFETY: `info` has seen that a whole ucred is there.
        Info::Credentials(sender) => Some(unsafe { sender.read_unaligned() }.uid),
        Info::V4(_) | Info::V6(_) => None,
    }
}

fn info(header: &libc::msghdr) -> Option<Info> {
    // SAFETY: the header is one the kernel filled in, or is all ours: its
    // control buffer holds msg_controllen bytes of well-formed messages.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR is null or points to a whole cmsghdr.
    let (level, kind, length) =
        unsafe { ((*first).cmsg_level, (*first).cmsg_type, (*first).cmsg_len) };
    // SAFETY: pointer arithmetic within the control buffer, whose first message
    // is at least a header long.
    let data: *mut c_void = unsafe { libc::CMSG_DATA(first) }.cast();
    // SAFETY: these only compute a length.
    let (v4, v6, credentials) = unsafe {
        (
            libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as c_uint),
            libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as c_uint),
            libc::CMSG_LEN(size_of::<libc::ucred>() as c_uint),
        )
    };
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= v4 as _ => Some(Info::V4(data.cast())),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= v6 as _ => {
            Some(Info::V6(data.cast()))
        }
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= credentials as _ => {
            Some(Info::Credentials(data.cast()))
        }
        _ => None,
    }
}

pub(super) fn asked(header: &libc::msghdr) -> Option<Asked> {
    match info(header)? {
        Info::V4(info) => {
            // SAFETY: `info` has seen that a whole in_pktinfo is there; read
            // unaligned, for cmsg(3) promises no alignment.
            let info = unsafe { info.read_unaligned() };
            let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
            Some(Asked {
                address: address.into(),
                // For one's own address the kernel gives both alike; what was
                // sent to many it would answer from an address of its own.
                unicast: info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr,
                interface: info.ipi_ifindex.cast_unsigned(),
            })
        }
        Info::V6(info) => {
            // SAFETY: as above, an in6_pktinfo.
            let info = unsafe { info.read_unaligned() };
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            Some(Asked {
                address: address.into(),
                unicast: !address.is_multicast(),
                interface: info.ipi6_ifindex,
            })
        }
        Info::Credentials(_) => None,
    }
}

/// Makes of "it came to this address by that interface" "send it from this
/// address": by any interface, as routes have it, but for an address that means
/// something on one link only.
pub(super) fn turn_round(header: &mut libc::msghdr) {
    match info(header) {
        Some(Info::V4(info)) => {
            // SAFETY: as in `asked`, and `header` is borrowed mutably.
            unsafe {
                let mut value = info.read_unaligned();
                value.ipi_ifindex = 0;
                info.write_unaligned(value);
            }
        }
        Some(Info::V6(info)) => {
            // SAFETY: as above.
            unsafe {
                let mut value = info.read_unaligned();
                let address = Ipv6Addr::from(value.ipi6_addr.s6_addr);
                if !address.is_unicast_link_local() {
                    value.ipi6_ifindex = 0;
                }
                info.write_unaligned(value);
            }
        }
        Some(Info::Credentials(_)) | None => {
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
    }
    header.msg_flags = 0;
}
