//! A model that remembers what it was asked, and whose answers can be told apart.

use super::*;

/// A V2 model over HTTP/1.1 that answers each request with what it was asked and the number of the answer, so that two answers to one
/// question can be told apart. It remembers what it was asked, in order, and how much at once.
pub(super) struct Ledger {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_down: AtomicBool,
    hangs: AtomicBool,
    /// The question that is answered 500.
    poison: Mutex<String>,
    asked: Mutex<Vec<String>>,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
}

impl Ledger {
    pub(super) fn listen() -> Self {
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        Self { address: accept(move |stream| serving.serve(stream)), shared }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().expect("no holder panics").clone()
    }

    /// How much it was asked at once.
    pub(super) fn most_inside(&self) -> usize {
        self.shared.most_inside.load(Ordering::SeqCst)
    }

    /// The question that it fails on from now on.
    pub(super) fn poison(&self, id: &str) {
        *self.shared.poison.lock().expect("no holder panics") = id.to_owned();
    }

    /// Whether it never answers.
    pub(super) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Whether it answers 500 to everything, and says that it is not ready.
    pub(super) fn is_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        while let Some((head, body)) = read_request(&mut stream) {
            if self.is_down.load(Ordering::SeqCst) {
                stream.write_all(b"HTTP/1.1 500 Down\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            if head.starts_with("GET ") {
                stream.write_all(READY)?;
                continue;
            }
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_inside.fetch_max(inside, Ordering::SeqCst);
            let answer = self.answer(&String::from_utf8_lossy(&body));
            self.inside.fetch_sub(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                // Until the caller gives up.
                drop(read_request(&mut stream));
                return Ok(());
            }
            let Some(answer) = answer else {
                stream.write_all(b"HTTP/1.1 500 Poison\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
            stream.write_all(format!("{head}content-length: {}\r\n\r\n{answer}", answer.len()).as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self, body: &str) -> Option<String> {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        let mut asked = self.asked.lock().expect("no holder panics");
        asked.push(id.clone());
        let is_poison = *self.poison.lock().expect("no holder panics") == id;
        (!is_poison).then(|| json!({"id": id, "answer": asked.len()}).to_string())
    }
}
