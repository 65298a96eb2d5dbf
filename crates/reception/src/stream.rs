//! The seam to the network: what the driver of a session asks of a connection.

use std::io;
use std::mem::MaybeUninit;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;

/// A connection that was accepted. In service this is Tokio's [`TcpStream`].
///
/// It is asked whether something can be done before a buffer is made for it, so that an idle connection holds none.
pub trait Stream: Send + Sync + 'static {
    /// Waits until there is input, or the end of it. Losing the future loses nothing.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Reads what is there into the room that `buffer` has; 0 is the end.
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Waits until something can be written.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Writes as much as can be written now.
    fn try_write(&self, octets: &[u8]) -> io::Result<usize>;

    /// Writes what [`try_write`](Self::try_write) took and still holds.
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Says one short thing to a connection that has just been accepted, whose buffer surely takes it.
    fn say(&self, octets: &[u8]) -> io::Result<usize>;

    /// Whether input is there, as the network knows it at this moment.
    fn has_input(&self) -> bool;

    /// Says that nothing more will be written.
    fn finish(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        TcpStream::readable(self)
    }

    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        TcpStream::try_read_buf(self, buffer)
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        TcpStream::writable(self)
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        TcpStream::try_write(self, octets)
    }

    /// Past the runtime, which may not know yet that the socket can be written to.
    fn say(&self, octets: &[u8]) -> io::Result<usize> {
        SockRef::from(self).send(octets)
    }

    /// Asks the operating system, for the runtime may not have heard of it yet; one octet tells.
    fn has_input(&self) -> bool {
        let mut octet = [MaybeUninit::uninit()];
        SockRef::from(self).peek(&mut octet).is_ok_and(|octets| octets > 0)
    }

    fn finish(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(std::net::Shutdown::Write)
    }
}
