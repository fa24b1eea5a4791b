//! A name server that answers, denies or keeps silent.

use super::place::Directory;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Silence,
    NoSuchName,
    /// Every name is 127.0.0.1 and has no IPv6 address.
    Loopback,
}

struct Shared {
    answer: Mutex<Answer>,
    questions: AtomicUsize,
    ended: AtomicBool,
}

pub struct NameServer {
    port: u16,
    shared: Arc<Shared>,
    directory: Directory,
}

impl NameServer {
    pub fn start(answer: Answer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
        let port = socket.local_addr().expect("bound").port();
        let look = Some(Duration::from_millis(100));
        socket.set_read_timeout(look).expect("a UDP socket");
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            questions: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let directory = Directory::new();
        directory.write("resolv.conf", "nameserver 127.0.0.1\n");
        directory.write("hosts", "127.0.0.1 localhost\n");
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut question = [0; 512];
                while !shared.ended.load(Ordering::Relaxed) {
                    let Ok((count, from)) = socket.recv_from(&mut question) else { continue };
                    shared.questions.fetch_add(1, Ordering::Relaxed);
                    let answer = *shared.answer.lock().expect("no holder panics");
                    if let Some(reply) = reply(&question[..count], answer) {
                        let _ = socket.send_to(&reply, from);
                    }
                }
            }
        });
        Self { port, shared, directory }
    }

    pub fn set(&self, answer: Answer) {
        *self.shared.answer.lock().expect("no holder panics") = answer;
    }

    /// Questions that have come so far.
    pub fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::Relaxed)
    }

    /// What makes the gateway ask here.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let file = |name| self.directory.file(name).display().to_string();
        vec![
            ("SPILLWAY_RESOLV_CONF", file("resolv.conf")),
            ("SPILLWAY_HOSTS", file("hosts")),
            ("SPILLWAY_DNS_PORT", self.port.to_string()),
        ]
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

/// RFC 1035: the question back, with what is asked for behind it.
fn reply(question: &[u8], answer: Answer) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += usize::from(question[end]) + 1;
    }
    // Behind the name its closing zero, type and class.
    end += 5;
    let kind = u16::from_be_bytes([*question.get(end - 4)?, *question.get(end - 3)?]);
    let address = kind == 1 && answer == Answer::Loopback;
    let code = match answer {
        Answer::Silence => return None,
        Answer::NoSuchName => 3,
        Answer::Loopback => 0,
    };
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    reply.extend(question.get(12..end)?);
    if address {
        reply.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}
