//! Over TCP: what the router alone cannot show.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilotok_server::{ConnectionLimits, Drained, ServerConfig, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::gate::{Gate, Gated};
use crate::support::{SLOTS, Server, engine_over, sim};

/// How much of something: the default is quick, figures are measured with more.
fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

struct Listening {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    abort: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

async fn listen(server: &Server, limits: ConnectionLimits) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (abort, aborted) = oneshot::channel::<()>();
    let work = serve(
        listener,
        server.app.clone(),
        server.router.clone(),
        limits,
        async { drop(stopped.await) },
        async {
            if aborted.await.is_err() {
                std::future::pending::<()>().await;
            }
        },
    );
    Listening { address, stop: Some(stop), abort: Some(abort), task: tokio::spawn(work) }
}

async fn send(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

async fn read_all(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

fn chat(max_tokens: u32, stream: bool) -> Value {
    json!({
        "messages": [{"role": "user", "content": "x"}], "max_tokens": max_tokens,
        "ignore_eos": true, "stream": stream, "speculation": "off",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_every_stream_and_takes_no_more() {
    let server = Server::new(ServerConfig::named("sim"), Duration::from_millis(1));
    let mut listening = listen(&server, ConnectionLimits::default()).await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(send(listening.address, "/v1/chat/completions", &chat(40, true)).await);
    }
    while server.app.in_flight() < 32 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    listening.stop.take().unwrap().send(()).unwrap();
    let done = futures_util::future::join_all(streams.into_iter().map(read_all)).await;
    for text in done {
        assert!(text.contains("data: [DONE]"), "{text}");
        assert!(text.contains("\"finish_reason\":\"length\""));
    }
    assert_eq!(listening.task.await.unwrap(), Drained::Complete);
    assert!(TcpStream::connect(listening.address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_ends_streams_with_an_error() {
    for by_signal in [true, false] {
        let server = Server::new(ServerConfig::named("sim"), Duration::from_millis(5));
        let drain = if by_signal { Duration::from_secs(60) } else { Duration::from_millis(200) };
        let mut listening =
            listen(&server, ConnectionLimits { drain, ..ConnectionLimits::default() }).await;
        let stream = send(listening.address, "/v1/chat/completions", &chat(2000, true)).await;
        while server.app.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        listening.stop.take().unwrap().send(()).unwrap();
        if by_signal {
            listening.abort.take().unwrap().send(()).unwrap();
        }
        let text = read_all(stream).await;
        assert!(text.contains("engine_dead") && !text.contains("[DONE]"), "{text}");
        assert_eq!(listening.task.await.unwrap(), Drained::Aborted);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_close_free_their_slots() {
    let server = Server::new(ServerConfig::named("sim"), Duration::from_micros(300));
    let listening = listen(&server, ConnectionLimits::default()).await;
    for round in 0..from_environment("KILOTOK_DISCONNECTS", 200) {
        let stream =
            send(listening.address, "/v1/chat/completions", &chat(1500, round % 2 == 0)).await;
        tokio::time::sleep(Duration::from_micros(round * 53 % 4000)).await;
        drop(stream);
    }
    server.idle().await;
    // The request is cancelled and not run to its end.
    let stream = send(listening.address, "/v1/chat/completions", &chat(1500, true)).await;
    while server.engine.engine().stats().running == 0 {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let before = server.engine.engine().stats();
    drop(stream);
    server.idle().await;
    let after = server.engine.engine().stats();
    assert_eq!((after.cancelled, after.finished), (before.cancelled + 1, before.finished));
    println!("{} rounds until the slot was free", after.rounds - before.rounds);
}

/// A client leaves while a round runs; the round after it already reads the prompt of the request
/// that waited for the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_a_client_that_left_is_used_by_the_next_round() {
    let gate = Arc::new(Gate::default());
    let gated = Gated { inner: sim(Duration::ZERO), gate: Arc::clone(&gate) };
    let server = Server::over(ServerConfig::named("sim"), engine_over(Box::new(gated)));
    let listening = listen(&server, ConnectionLimits::default()).await;
    let long = chat(1500, true);
    let ask = || send(listening.address, "/v1/chat/completions", &long);
    let mut streams = Vec::new();
    for _ in 0..SLOTS {
        streams.push(ask().await);
    }
    // Rounds that read the prompts of all of them.
    let stats = || server.engine.engine().stats();
    while stats().running < SLOTS || gate.wait_for(gate.begun().max(1)) > 0 {
        gate.allow(1);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let waiting = ask().await;
    while stats().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let during = gate.begun();
    drop(streams.pop());
    while server.app.in_flight() > SLOTS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(gate.begun(), during, "the round in which the client left still runs");
    gate.allow(1);
    let next = Arc::clone(&gate);
    let prompts = tokio::task::spawn_blocking(move || next.wait_for(during + 1)).await.unwrap();
    assert_eq!((prompts, gate.begun()), (1, during + 1));
    assert_eq!((stats().cancelled, stats().waiting), (1, 0));
    gate.allow(1 << 40);
    drop((streams, waiting));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http_are_answered_or_closed() {
    let server = Server::quick();
    let limits = ConnectionLimits {
        header_timeout: Duration::from_millis(300),
        ..ConnectionLimits::default()
    };
    let listening = listen(&server, limits).await;
    let many = "h: x\r\n".repeat(500);
    let huge =
        format!("GET /live HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let cases: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n".to_vec(),
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /live HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").into_bytes(),
        huge.into_bytes(),
        b"GET /live HTTP/1.1\r\nhost: loc".to_vec(),
        vec![0; 10_000],
        vec![0xff; 10_000],
    ];
    for case in cases {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        let _ = stream.write_all(&case).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), read_all(stream)).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap_or("closed").to_owned();
        assert!(
            status == "closed" || status.starts_with('4'),
            "{status} for {:?}",
            &case[..case.len().min(60)]
        );
    }
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(read_all(stream).await.contains("200 OK"));
}

/// Time to the first event of a stream, or the status that refused it.
async fn first_event(address: SocketAddr, tokens: u32) -> Result<Duration, u16> {
    let started = Instant::now();
    let mut stream = send(address, "/v1/chat/completions", &chat(tokens, true)).await;
    let mut seen = Vec::new();
    let mut first = None;
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..count]);
        if first.is_none() && seen.windows(6).any(|bytes| bytes == b"data: ") {
            first = Some(started.elapsed());
        }
    }
    let status = String::from_utf8_lossy(&seen[9..12.min(seen.len())]).parse().unwrap_or(0);
    first.ok_or(status)
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// Twenty times more requests than there are slots for: those taken in are served as if nothing
/// had happened, the others are told so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_does_not_slow_those_who_are_served() {
    const TOKENS: u32 = 40;
    let step = Duration::from_millis(5);
    let mut config = ServerConfig::named("sim");
    config.max_queue = 0;
    let server = Server::new(config, step);
    let listening = listen(&server, ConnectionLimits::default()).await;
    let mut alone = Vec::new();
    for _ in 0..10 {
        alone.push(first_event(listening.address, TOKENS).await.unwrap());
    }
    let seconds = from_environment("KILOTOK_OVERLOAD_SECONDS", 2);
    // A request holds a slot for about `TOKENS` steps.
    let every = step * TOKENS / (SLOTS as u32 * 20);
    let mut tasks = tokio::task::JoinSet::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        tasks.spawn(first_event(listening.address, TOKENS));
        assert!(server.app.in_flight() <= SLOTS, "more than there is room for");
        tokio::time::sleep(every).await;
    }
    let (mut served, mut refused) = (Vec::new(), 0);
    for outcome in tasks.join_all().await {
        match outcome {
            Ok(time) => served.push(time),
            Err(status) => {
                assert_eq!(status, 429);
                refused += 1;
            }
        }
    }
    server.idle().await;
    assert!(served.len() >= SLOTS && refused > served.len(), "{} and {refused}", served.len());
    let (alone, loaded) = (percentile(&mut alone, 0.5), percentile(&mut served, 0.99));
    println!("{} served, {refused} refused; alone {alone:?}, p99 loaded {loaded:?}", served.len());
    // Where time is measured, it is measured on a machine that does nothing else.
    if std::env::var_os("KILOTOK_OVERLOAD_SECONDS").is_some() {
        assert!(loaded <= 3 * alone, "alone {alone:?}, p99 loaded {loaded:?}");
    }
}
