//! The reader on real files: following, rotation, the end of the container, clients that go away.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;

struct Switch(Arc<AtomicBool>);

#[async_trait]
impl Liveness for Switch {
    async fn running(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
    running: Arc<AtomicBool>,
    shutdown: CancellationToken,
}

impl Fixture {
    fn new(lines: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(&path, "").unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let fixture = Self { path, running, shutdown: CancellationToken::new(), _directory: directory };
        lines.iter().for_each(|line| fixture.write(&format!("{line}\n")));
        fixture
    }

    fn write(&self, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path).unwrap();
        for line in text.split_inclusive('\n') {
            file.write_all(format!("2026-01-01T00:00:00Z stdout F {line}").as_bytes()).unwrap();
        }
    }

    async fn start(&self, options: LogOptions) -> (Reading, tokio::task::JoinHandle<()>) {
        let file = LogFile::open(&self.path, options.tail).await.unwrap();
        let follow = options
            .follow
            .then(|| Follow { container: Box::new(Switch(self.running.clone())), shutdown: self.shutdown.clone() });
        let (sender, receiver) = mpsc::channel(PIECES);
        let task = tokio::spawn(reader::run(file, Writer::new(options), follow, sender));
        (Reading { receiver, text: String::new() }, task)
    }
}

struct Reading {
    receiver: mpsc::Receiver<Result<bytes::Bytes, std::io::Error>>,
    text: String,
}

impl Reading {
    async fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let next = tokio::time::timeout(Duration::from_secs(30), self.receiver.recv()).await;
            let piece = next.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", self.text));
            let piece = piece.unwrap_or_else(|| panic!("ended without {wanted:?}: {:?}", self.text)).unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn rest(mut self) -> String {
        while let Some(piece) = tokio::time::timeout(Duration::from_secs(30), self.receiver.recv()).await.unwrap() {
            self.text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
        self.text
    }
}

fn following() -> LogOptions {
    LogOptions { follow: true, ..LogOptions::default() }
}

#[tokio::test]
async fn reads_all_or_the_tail() {
    let fixture = Fixture::new(&["a", "b", "c"]);
    for (tail, want) in [(None, "a\nb\nc\n"), (Some(2), "b\nc\n"), (Some(0), ""), (Some(7), "a\nb\nc\n")] {
        let (reading, _) = fixture.start(LogOptions { tail, ..LogOptions::default() }).await;
        assert_eq!(reading.rest().await, want);
    }
    fixture.write("unfinished");
    let (reading, _) = fixture.start(LogOptions::default()).await;
    assert_eq!(reading.rest().await, "a\nb\nc\nunfinished");
}

#[tokio::test]
async fn long_logs_pass_in_pieces() {
    let fixture = Fixture::new(&[]);
    let text: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    fixture.write(&text);
    let (reading, _) = fixture.start(LogOptions::default()).await;
    assert!(reading.rest().await == text);
}

#[tokio::test]
async fn follows_until_the_container_ends() {
    let fixture = Fixture::new(&["a", "b"]);
    let (mut reading, _) = fixture.start(LogOptions { tail: Some(1), ..following() }).await;
    reading.until("b\n").await;
    fixture.write("c\n");
    reading.until("c\n").await;
    fixture.write("d\n");
    fixture.running.store(false, Ordering::SeqCst);
    assert_eq!(reading.rest().await, "b\nc\nd\n");
}

#[tokio::test]
async fn follows_across_rotations() {
    let fixture = Fixture::new(&["a"]);
    let (mut reading, _) = fixture.start(following()).await;
    reading.until("a\n").await;
    for (number, old, new) in [(1, "b\n", "c\n"), (2, "d\n", "e\n")] {
        fs::rename(&fixture.path, fixture.path.with_extension(format!("log.{number}"))).unwrap();
        // The runtime still has the old file open.
        let moved = Fixture { path: fixture.path.with_extension(format!("log.{number}")), ..Fixture::new(&[]) };
        moved.write(old);
        fixture.write(new);
        reading.until(new).await;
    }
    fixture.running.store(false, Ordering::SeqCst);
    assert_eq!(reading.rest().await, "a\nb\nc\nd\ne\n");
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_beginning() {
    let fixture = Fixture::new(&["a long line"]);
    let (mut reading, _) = fixture.start(following()).await;
    reading.until("line\n").await;
    fs::write(&fixture.path, "").unwrap();
    fixture.write("b\n");
    reading.until("b\n").await;
}

#[tokio::test]
async fn a_follow_ends_with_its_client_and_with_the_kubelet() {
    let fixture = Fixture::new(&["a"]);
    let (reading, task) = fixture.start(following()).await;
    drop(reading);
    tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    let (reading, _) = fixture.start(following()).await;
    fixture.shutdown.cancel();
    assert_eq!(reading.rest().await, "a\n");
}

#[tokio::test]
async fn a_limit_ends_a_follow() {
    let fixture = Fixture::new(&["a", "b"]);
    let (reading, _) = fixture.start(LogOptions { limit: Some(3), ..following() }).await;
    assert_eq!(reading.rest().await, "a\nb");
}
