//! What carries the bytes of a connection. Today that is TCP; TLS, WebSocket, Unix sockets and
//! QUIC join here as further variants, and neither the connection table nor the core sees more
//! than these verbs.
//!
//! For a transport with a layer of its own: `establish` drives its handshake as well, `read` and
//! `write` move plain bytes, and `WouldBlock` means that nothing more can be done until the next
//! readiness event. Never blocks.

use super::socket::{self, Kind};
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
}

impl Transport {
    /// A socket a listener has accepted. The kernel asks after its peer once nothing came for
    /// `silence`: a client without a keepalive of its own would hold its place for ever.
    pub(super) fn accepted(stream: TcpStream, silence: Duration) -> Self {
        // Without it small acknowledgements wait for each other; a refusal is no reason to close.
        let _ = stream.set_nodelay(true);
        // Nor is this: MQTT's own keepalive does not need it.
        let _ = socket::ask_after(&stream, silence);
        Self::Tcp(stream)
    }

    /// Begins to connect. The outcome is told by [`Transport::establish`] once the socket is
    /// writable. `keepalive` is that of MQTT, zero = none: the kernel asks after the peer as often,
    /// and gives up when nothing we sent is acknowledged for twice as long, whatever the remote has
    /// said of its own keepalive.
    pub(super) fn dial(
        addr: SocketAddr,
        interface: Option<&str>,
        keepalive: Duration,
    ) -> io::Result<Self> {
        let fd = socket::open(addr, Kind::Stream, interface)?;
        if !keepalive.is_zero() {
            // The link has a keepalive and time-outs of its own: they do without.
            let _ = socket::ask_after(&fd, keepalive);
            let _ = socket::give_up_after(&fd, keepalive * 2);
        }
        socket::connect(&fd, addr)?;
        let stream = TcpStream::from_std(std::net::TcpStream::from(fd));
        let _ = stream.set_nodelay(true);
        Ok(Self::Tcp(stream))
    }

    /// `true` once bytes can flow, `false` while it is still under way.
    pub(super) fn establish(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                match stream.peer_addr() {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(out),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    /// Confirms at once what was read, where the transport would wait for an answer to do it with.
    pub(super) fn acknowledge(&self) {
        match self {
            Self::Tcp(stream) => socket::acknowledge(stream),
        }
    }

    /// Bytes that can be read at once.
    pub(super) fn available(&self) -> usize {
        match self {
            Self::Tcp(stream) => socket::available(stream),
        }
    }

    /// Bytes that were written and that the peer's side has not confirmed.
    pub(super) fn outstanding(&self) -> usize {
        match self {
            Self::Tcp(stream) => socket::outstanding(stream),
        }
    }

    /// Says goodbye: the peer reads what was written and then the end.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Registers for both directions at once: readiness is remembered, not asked for again.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};

    /// Long enough never to matter here.
    const KEEPALIVE: Duration = Duration::from_secs(30);

    fn settle(transport: &mut Transport) -> io::Result<bool> {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        transport.register(poll.registry(), Token(0)).unwrap();
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        transport.establish()
    }

    #[test]
    fn a_dialled_listener_is_established_and_carries_bytes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut transport =
            Transport::dial(listener.local_addr().unwrap(), Some("lo"), KEEPALIVE).unwrap();
        assert!(settle(&mut transport).unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(transport.write(b"hello").unwrap(), 5);
        transport.finish().unwrap();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"hello");
    }

    #[test]
    fn a_port_nobody_listens_on_is_refused() {
        let addr = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = match Transport::dial(addr, None, KEEPALIVE) {
            Ok(mut transport) => settle(&mut transport).unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(socket::reason(&error), "refused");
    }

    #[test]
    fn the_kernel_asks_after_the_peer_as_the_keepalive_says_and_not_without_one() {
        use libc::{IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPIDLE, TCP_USER_TIMEOUT};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let options = |transport: &Transport| {
            let Transport::Tcp(stream) = transport;
            [
                (SOL_SOCKET, SO_KEEPALIVE),
                (IPPROTO_TCP, TCP_KEEPIDLE),
                (IPPROTO_TCP, TCP_USER_TIMEOUT),
            ]
            .map(|(level, name)| socket::option(stream, level, name).unwrap())
        };
        let dialled = Transport::dial(addr, None, KEEPALIVE).unwrap();
        assert_eq!(options(&dialled), [1, 30, 60_000]);
        // The longest that can be configured.
        let dialled = Transport::dial(addr, None, Duration::from_secs(0xFFFF)).unwrap();
        assert_eq!(options(&dialled), [1, 32_767, 131_070_000]);
        let dialled = Transport::dial(addr, None, Duration::ZERO).unwrap();
        let [asks, _, gives_up] = options(&dialled);
        assert_eq!((asks, gives_up), (0, 0));
        let (stream, _) = listener.accept().unwrap();
        let accepted = Transport::accepted(TcpStream::from_std(stream), Duration::from_secs(300));
        assert_eq!(options(&accepted), [1, 300, 0]);
    }
}
