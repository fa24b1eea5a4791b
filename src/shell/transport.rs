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

#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
}

impl Transport {
    /// A socket a listener has accepted.
    pub(super) fn accepted(stream: TcpStream) -> Self {
        // Without it small acknowledgements wait for each other; a refusal is no reason to close.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }

    /// Begins to connect. The outcome is told by [`Transport::establish`] once the socket is
    /// writable.
    pub(super) fn dial(addr: SocketAddr, interface: Option<&str>) -> io::Result<Self> {
        let fd = socket::open(addr, Kind::Stream, interface)?;
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
    use std::time::Duration;

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
        let mut transport = Transport::dial(listener.local_addr().unwrap(), Some("lo")).unwrap();
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
        let error = match Transport::dial(addr, None) {
            Ok(mut transport) => settle(&mut transport).unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(socket::reason(&error), "refused");
    }
}
