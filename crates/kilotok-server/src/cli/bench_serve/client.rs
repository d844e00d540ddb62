//! One request over HTTP, with the moment of every token.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Request, StatusCode, Uri};
use futures_util::StreamExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::tls::Tls;
use crate::cli::Outcome;

/// Longest line of a stream that is kept while its end has not come.
const MAX_LINE: usize = 16 << 20;

/// A server and the connections to it that are free.
#[derive(Clone)]
pub(super) struct Target {
    host: String,
    authority: String,
    port: u16,
    prefix: String,
    key: Option<String>,
    tls: Option<Tls>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Reply {
    Done(Timing),
    /// 429, with the wait that the server asked for.
    Refused(Duration),
    Failed(String),
}

/// Moments of one reply.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// From the moment at which the request was due to its first token.
    pub(super) first: Duration,
    /// From then to the end.
    pub(super) total: Duration,
    pub(super) tokens: usize,
    /// Gap before every token after the first. Tokens that come together share their gap equally.
    pub(super) gaps: Vec<Duration>,
    /// Whether the server counted tokens on the way; otherwise all gaps are the mean.
    pub(super) counted: bool,
    /// Rounds by accepted drafts, from the receipts.
    pub(super) accepted: Vec<usize>,
    /// What the server measured.
    pub(super) queue_ms: Option<f64>,
}

impl Target {
    /// `authorities` is a file of those to trust where the address is one of HTTPS.
    pub(super) fn new(url: &Uri, key: Option<String>, authorities: Option<&Path>) -> Outcome<Self> {
        let (Some(scheme @ ("http" | "https")), Some(authority)) =
            (url.scheme_str(), url.authority())
        else {
            return Err(format!("{url}: expected http://host:port or https://host:port").into());
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_secret = scheme == "https";
        Ok(Self {
            tls: is_secret.then(|| Tls::new(&host, authorities)).transpose()?,
            host,
            authority: authority.as_str().to_owned(),
            port: authority.port_u16().unwrap_or(if is_secret { 443 } else { 80 }),
            prefix: url.path().trim_end_matches('/').to_owned(),
            key,
            idle: Arc::default(),
        })
    }

    /// The first model that the server names.
    pub(super) async fn first_model(&self) -> Outcome<String> {
        let reply = self.exchange("GET", "/v1/models", Body::empty()).await?;
        let status = reply.status();
        let body = axum::body::to_bytes(Body::new(reply.into_body()), MAX_LINE).await?;
        let body: Value = serde_json::from_slice(&body)
            .map_err(|error| format!("/v1/models: {status}, {error}"))?;
        match body["data"][0]["id"].as_str() {
            Some(model) => Ok(model.to_owned()),
            None => Err(format!("/v1/models: {status}, no model: {body}").into()),
        }
    }

    /// Sends a streaming request that was due at `due` and reads its reply.
    pub(super) async fn ask(&self, route: &str, body: &Value, due: Instant) -> Reply {
        match self.stream(route, body, due).await {
            Ok(outcome) => outcome,
            Err(error) => Reply::Failed(error.to_string()),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        route: &str,
        body: Body,
    ) -> Outcome<hyper::Response<hyper::body::Incoming>> {
        let mut connection = self.connection().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{route}", self.prefix))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let reply = connection.send_request(request.body(body)?).await?;
        // Ready again once this reply has been read to its end.
        self.idle.lock().push(connection);
        Ok(reply)
    }

    async fn connection(&self) -> Outcome<SendRequest<Body>> {
        {
            let mut idle = self.idle.lock();
            idle.retain(|connection| !connection.is_closed());
            if let Some(at) = idle.iter().position(SendRequest::is_ready) {
                return Ok(idle.swap_remove(at));
            }
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => begin(tls.connect(stream).await?).await,
            None => begin(stream).await,
        }
    }

    async fn stream(&self, route: &str, body: &Value, due: Instant) -> Outcome<Reply> {
        let reply = self.exchange("POST", route, Body::from(body.to_string())).await?;
        let status = reply.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = reply.headers().get("retry-after-ms");
            let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok()).unwrap_or(1000);
            // Read to the end, so that the connection can be used again.
            axum::body::to_bytes(Body::new(reply.into_body()), MAX_LINE).await?;
            return Ok(Reply::Refused(Duration::from_millis(wait)));
        }
        if status != StatusCode::OK {
            let body = axum::body::to_bytes(Body::new(reply.into_body()), MAX_LINE).await?;
            let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            return Ok(Reply::Failed(format!("{status}: {text}")));
        }
        let mut chunks = Body::new(reply.into_body()).into_data_stream();
        let mut reading = Reading::default();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let now = due.elapsed();
            if let Err(error) = reading.bytes(&chunk, now) {
                return Ok(Reply::Failed(error));
            }
        }
        Ok(reading.finish(due.elapsed()))
    }
}

/// Speaks HTTP over a connection.
async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Outcome<SendRequest<Body>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A stream as far as it has come.
#[derive(Default)]
struct Reading {
    held: Vec<u8>,
    timing: Timing,
    /// Moments at which text came and how many tokens there were by then.
    last: Option<Duration>,
    done: bool,
}

impl Reading {
    fn bytes(&mut self, bytes: &[u8], now: Duration) -> Result<(), String> {
        self.held.extend_from_slice(bytes);
        while let Some(end) = self.held.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            self.line(line.trim_ascii(), now)?;
        }
        if self.held.len() > MAX_LINE {
            return Err("a line of the stream has no end".to_owned());
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], now: Duration) -> Result<(), String> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
        if let Some(error) = chunk.get("error") {
            return Err(error.to_string());
        }
        let choices = chunk["choices"].as_array().map_or(0, Vec::len);
        let usage = &chunk["usage"];
        let count = usage["completion_tokens"].as_u64().map(|count| count as usize);
        if choices == 0 {
            self.timing.tokens = count.unwrap_or(self.timing.tokens);
            self.receipts(usage);
        } else if let Some(count) = count {
            self.timing.counted = true;
            self.tokens(count, now);
        } else if self.last.is_none() {
            self.timing.first = now;
            self.last = Some(now);
        } else {
            self.last = Some(now);
        }
        Ok(())
    }

    /// There are `count` tokens now.
    fn tokens(&mut self, count: usize, now: Duration) {
        let mut new = count.saturating_sub(self.timing.tokens);
        if new == 0 {
            return;
        }
        self.timing.tokens = count;
        let gap = if let Some(last) = self.last {
            now.saturating_sub(last)
        } else {
            self.timing.first = now;
            new -= 1;
            Duration::ZERO
        };
        self.last = Some(now);
        self.timing.gaps.extend((0..new).map(|_| gap / new as u32));
    }

    fn receipts(&mut self, usage: &Value) {
        for receipt in usage["receipts"].as_array().into_iter().flatten() {
            self.timing.queue_ms = receipt["queue_ms"].as_f64();
            let histogram = receipt["accepted_histogram"].as_array().into_iter().flatten();
            for (drafts, rounds) in histogram.enumerate() {
                if self.timing.accepted.len() <= drafts {
                    self.timing.accepted.push(0);
                }
                self.timing.accepted[drafts] += rounds.as_u64().unwrap_or(0) as usize;
            }
        }
    }

    fn finish(mut self, now: Duration) -> Reply {
        if !self.done {
            return Reply::Failed("the stream ended before [DONE]".to_owned());
        }
        self.timing.total = now;
        let Some(last) = self.last else {
            return Reply::Failed("the reply has no token".to_owned());
        };
        let after_first = self.timing.tokens.saturating_sub(1);
        if !self.timing.counted && after_first > 0 {
            let mean = last.saturating_sub(self.timing.first) / after_first as u32;
            self.timing.gaps = vec![mean; after_first];
        }
        Reply::Done(self.timing)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Reading, Reply};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn tokens_that_come_together_share_their_gap() {
        let mut reading = Reading::default();
        let chunk = |tokens: u64| {
            format!("data: {{\"choices\":[{{}}],\"usage\":{{\"completion_tokens\":{tokens}}}}}\n\n")
        };
        reading.bytes(chunk(0).as_bytes(), ms(9)).unwrap();
        // Cut anywhere, as networks do.
        let text = chunk(2);
        reading.bytes(&text.as_bytes()[..11], ms(10)).unwrap();
        reading.bytes(&text.as_bytes()[11..], ms(10)).unwrap();
        reading.bytes(chunk(6).as_bytes(), ms(18)).unwrap();
        reading.bytes(b": keep-alive\n\n", ms(19)).unwrap();
        let end = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":6,\"receipts\":\
                   [{\"queue_ms\":1.5,\"accepted_histogram\":[1,0,2]}]}}\n\ndata: [DONE]\n\n";
        reading.bytes(end.as_bytes(), ms(20)).unwrap();
        let Reply::Done(timing) = reading.finish(ms(20)) else { panic!("not done") };
        assert_eq!((timing.first, timing.tokens, timing.total), (ms(10), 6, ms(20)));
        assert_eq!(timing.gaps, [ms(0), ms(2), ms(2), ms(2), ms(2)]);
        assert_eq!((timing.accepted, timing.queue_ms), (vec![1, 0, 2], Some(1.5)));
    }

    #[test]
    fn a_server_that_does_not_count_gives_means() {
        let mut reading = Reading::default();
        for at in [10, 14, 30] {
            reading.bytes(b"data: {\"choices\":[{}]}\n\n", ms(at)).unwrap();
        }
        let end = b"data: {\"choices\":[],\"usage\":{\"completion_tokens\":5}}\n\ndata: [DONE]\n\n";
        reading.bytes(end, ms(31)).unwrap();
        let Reply::Done(timing) = reading.finish(ms(31)) else { panic!("not done") };
        assert!(!timing.counted);
        assert_eq!(timing.gaps, [ms(5); 4]);
    }

    #[test]
    fn a_broken_stream_is_a_failure() {
        let mut reading = Reading::default();
        assert!(reading.bytes(b"data: {\"error\":{\"message\":\"no\"}}\n", ms(1)).is_err());
        assert!(matches!(Reading::default().finish(ms(1)), Reply::Failed(_)));
    }
}
