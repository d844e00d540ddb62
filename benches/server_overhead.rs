//! What HTTP costs: the same requests to an engine in this process and through the server over
//! loopback TCP, in turns, on a simulated model that makes 2000 tokens per second.
//!
//! `cargo bench -p kilotok-server --bench server_overhead`, options after `--`: `tokens=400`,
//! `repeats=9`, `rate=2000` (0: as fast as the simulation can).
//! Prints one JSON object. The simulated engine keeps one core busy, so a machine needs two.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark reports and may fail")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilotok::SamplingParams;
use kilotok::backend::sim::{SimConfig, SimExecutor};
use kilotok::backend::{Limits, Rounds};
use kilotok::engine::{Engine, EngineConfig, ModelInfo};
use kilotok_server::{App, ConnectionLimits, ServerConfig, router, serve};
use kilotok_text::{Prompt, TextEngine, TextParams};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/kilotok/demo/checkpoint");
const PROMPT: &str = "The river was wide and slow, and nobody had crossed it for years.";
const VOCAB: usize = 4096;

fn option(name: &str, default: f64) -> f64 {
    let prefix = format!("{name}=");
    let given = std::env::args().find_map(|a| a.strip_prefix(&prefix)?.parse().ok());
    given.unwrap_or(default)
}

fn engine(rate: f64) -> TextEngine {
    let limits = Limits {
        max_rows: 64,
        slots: 4,
        pages: 1024,
        page_size: 16,
        max_positions: 4096,
        snapshots: 0,
    };
    let sim = SimExecutor::new(SimConfig {
        limits,
        vocab: VOCAB,
        max_drafts: 0,
        hit_percent: 0,
        verify_time: if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO },
        draft_time: Duration::ZERO,
    });
    let info = ModelInfo { vocab: VOCAB, eos_token_ids: Vec::new(), max_drafts: 0 };
    let engine = Engine::start(Box::new(Rounds::new(sim)), info, EngineConfig::default()).unwrap();
    TextEngine::from_dir(Arc::new(engine), DEMO.as_ref()).unwrap()
}

/// Seconds to the first piece of text and to the end.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: f64,
    total: f64,
}

fn in_process(engine: &TextEngine, tokens: u32) -> Run {
    let sampling =
        SamplingParams { max_tokens: tokens, ignore_eos: true, ..SamplingParams::default() };
    let params = TextParams { sampling, ..TextParams::default() };
    let started = Instant::now();
    let mut first = None;
    let mut count = 0;
    for piece in engine.submit(Prompt::Text(PROMPT.to_owned()), &params).unwrap() {
        count += piece.unwrap().token_ids.len();
        first.get_or_insert_with(|| started.elapsed().as_secs_f64());
    }
    assert_eq!(count, tokens as usize);
    Run { first: first.unwrap(), total: started.elapsed().as_secs_f64() }
}

/// One request on a connection that is kept, like a client with a pool.
fn over_http(stream: &mut BufReader<TcpStream>, tokens: u32) -> Run {
    let body = serde_json::json!({
        "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "stream": true, "return_token_ids": true,
    })
    .to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let started = Instant::now();
    stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
    let mut line = String::new();
    let mut first = None;
    let mut chunk = Vec::new();
    // Head.
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        chunk.resize(length + 2, 0);
        stream.read_exact(&mut chunk).unwrap();
        if length == 0 {
            break;
        }
        first.get_or_insert_with(|| started.elapsed().as_secs_f64());
    }
    Run { first: first.unwrap(), total: started.elapsed().as_secs_f64() }
}

fn start(engine: TextEngine) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let app = App::new(ServerConfig::named("sim"));
            app.ready(engine);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let never = std::future::pending::<()>;
            let limits = ConnectionLimits::default();
            serve(listener, app.clone(), router(app), limits, never(), never()).await;
        });
    });
    receiver.recv().unwrap()
}

/// Median and minimum; on a busy machine the minimum is nearer to the truth.
fn summary(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2] * 1e6, values[0] * 1e6]
}

fn main() {
    let tokens = option("tokens", 400.0) as u32;
    let repeats = option("repeats", 9.0) as usize;
    let rate = option("rate", 2000.0);
    let engine = engine(rate);
    let stream = TcpStream::connect(start(engine.clone())).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    in_process(&engine, 20);
    over_http(&mut stream, 20);
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        here.push(in_process(&engine, tokens));
        there.push(over_http(&mut stream, tokens));
    }
    let first = |runs: &[Run]| summary(runs.iter().map(|run| run.first).collect());
    let token = |run: &Run| (run.total - run.first) / f64::from(tokens - 1);
    let per_token = |runs: &[Run]| summary(runs.iter().map(token).collect());
    let describe = |ttft: [f64; 2], token: [f64; 2]| {
        let of = |values: [f64; 2]| serde_json::json!({ "median": values[0], "min": values[1] });
        serde_json::json!({ "ttft_us": of(ttft), "token_us": of(token) })
    };
    let minus = |a: [f64; 2], b: [f64; 2]| [a[0] - b[0], a[1] - b[1]];
    let (engine, server) = ((first(&here), per_token(&here)), (first(&there), per_token(&there)));
    println!(
        "{}",
        serde_json::json!({
            "tokens": tokens,
            "repeats": repeats,
            "simulated_tokens_per_s": rate,
            "engine": describe(engine.0, engine.1),
            "server": describe(server.0, server.1),
            "overhead": describe(minus(server.0, engine.0), minus(server.1, engine.1)),
        })
    );
}
