//! What `kilotok serve` is told: by flags, by the environment, by a file, in this order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{ApiKeys, ConnectionLimits, Hosts, RequestLimits, ServerConfig, Tls};
use clap::Args;
use serde::Deserialize;

use super::Outcome;
use super::arguments::EngineArguments;
use super::logging::LogFormat;
use super::model::sampling_defaults;

/// Variable of the environment that holds API keys, separated by commas.
pub(crate) const KEYS: &str = "KILOTOK_API_KEY";

/// Every setting has the same name as a flag, in the environment and in the file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub(crate) struct Settings {
    /// Model directory (default: the demo checkpoint)
    #[arg(env = "KILOTOK_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Address to listen at (default: 127.0.0.1)
    #[arg(long, env = "KILOTOK_HOST")]
    pub(crate) host: Option<String>,
    /// Port to listen at, 0 for any (default: 8000)
    #[arg(long, env = "KILOTOK_PORT")]
    pub(crate) port: Option<u16>,
    /// Name of the model in requests (default: the directory's)
    #[arg(long, env = "KILOTOK_MODEL_NAME")]
    pub(crate) model_name: Option<String>,
    /// Another name that requests may use
    #[arg(long, env = "KILOTOK_ALIAS", value_delimiter = ',')]
    pub(crate) alias: Option<Vec<String>>,
    /// File with API keys, one a line; the environment's KILOTOK_API_KEY holds them too, separated by commas
    #[arg(long, env = "KILOTOK_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Listen beyond this machine without asking for keys
    #[arg(long, env = "KILOTOK_INSECURE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) insecure: Option<bool>,
    /// PEM file with a certificate and those that vouch for it; serves HTTPS
    #[arg(long, env = "KILOTOK_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "KILOTOK_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Address of an OpenTelemetry collector that spans go to, such as http://localhost:4318/v1/traces
    #[arg(long, env = "KILOTOK_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Origin of web pages that may use the server, `*` for all (default: none)
    #[arg(long, env = "KILOTOK_CORS_ORIGIN", value_delimiter = ',')]
    pub(crate) cors_origin: Option<Vec<String>>,
    /// Sequences that may wait for a slot; more are refused with 429 (default: 128)
    #[arg(long, env = "KILOTOK_MAX_QUEUE")]
    pub(crate) max_queue: Option<usize>,
    /// Connections at once (default: 4096)
    #[arg(long, env = "KILOTOK_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<usize>,
    /// Bytes of a request body (default: 8388608)
    #[arg(long, env = "KILOTOK_MAX_BODY_BYTES")]
    pub(crate) max_body_bytes: Option<usize>,
    /// Sequences of one request (default: 64)
    #[arg(long, env = "KILOTOK_MAX_SEQUENCES")]
    pub(crate) max_sequences: Option<usize>,
    /// Generated tokens of a chat request that does not say (default: 4096)
    #[arg(long, env = "KILOTOK_DEFAULT_MAX_TOKENS")]
    pub(crate) default_max_tokens: Option<u32>,
    /// Seconds of silence after which a stream carries a comment (default: 10)
    #[arg(long, env = "KILOTOK_KEEP_ALIVE_S")]
    pub(crate) keep_alive_s: Option<f64>,
    /// Seconds that requests in flight have after SIGTERM (default: 30)
    #[arg(long, env = "KILOTOK_DRAIN_S")]
    pub(crate) drain_s: Option<f64>,
    /// Seconds without a round after which /health fails (default: 30)
    #[arg(long, env = "KILOTOK_STALL_S")]
    pub(crate) stall_s: Option<f64>,
    /// Log level or filter, such as `info` or `warn,kilotok_server=debug` (default: info)
    #[arg(long, env = "KILOTOK_LOG")]
    pub(crate) log: Option<String>,
    /// Form of log lines (default: text)
    #[arg(long, env = "KILOTOK_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Threads that handle connections (default: up to 4)
    #[arg(long, env = "KILOTOK_IO_THREADS")]
    pub(crate) io_threads: Option<usize>,
    /// Serve made-up tokens at this rate instead of running the model, to test clients
    #[arg(long, env = "KILOTOK_SIMULATE", value_name = "TOKENS_PER_S")]
    pub(crate) simulate: Option<f64>,
    #[command(flatten)]
    pub(crate) engine: EngineArguments,
}

impl Settings {
    /// Reads a configuration file.
    pub(crate) fn from_file(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("--config {}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// These, and where they say nothing, `below`.
    pub(crate) fn or(self, below: Self) -> Self {
        Self {
            model: self.model.or(below.model),
            host: self.host.or(below.host),
            port: self.port.or(below.port),
            model_name: self.model_name.or(below.model_name),
            alias: self.alias.or(below.alias),
            api_key_file: self.api_key_file.or(below.api_key_file),
            insecure: self.insecure.or(below.insecure),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            otlp_endpoint: self.otlp_endpoint.or(below.otlp_endpoint),
            cors_origin: self.cors_origin.or(below.cors_origin),
            max_queue: self.max_queue.or(below.max_queue),
            max_connections: self.max_connections.or(below.max_connections),
            max_body_bytes: self.max_body_bytes.or(below.max_body_bytes),
            max_sequences: self.max_sequences.or(below.max_sequences),
            default_max_tokens: self.default_max_tokens.or(below.default_max_tokens),
            keep_alive_s: self.keep_alive_s.or(below.keep_alive_s),
            drain_s: self.drain_s.or(below.drain_s),
            stall_s: self.stall_s.or(below.stall_s),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            io_threads: self.io_threads.or(below.io_threads),
            simulate: self.simulate.or(below.simulate),
            engine: self.engine.or(below.engine),
        }
    }

    /// The keys of the environment and of the file.
    pub(crate) fn keys(&self) -> Outcome<ApiKeys> {
        let named = std::env::var(KEYS).unwrap_or_default();
        let mut keys = ApiKeys::new(named.split(','));
        if let Some(path) = &self.api_key_file {
            let from_file = ApiKeys::from_file(path)
                .map_err(|error| format!("--api-key-file {}: {error}", path.display()))?;
            if from_file.is_empty() {
                return Err(format!("--api-key-file {} holds no key", path.display()).into());
            }
            keys.extend(from_file);
        }
        Ok(keys)
    }

    /// The router's configuration for a model in `directory`.
    pub(crate) fn server(
        &self,
        directory: &Path,
        is_demo: bool,
        hosts: Hosts,
    ) -> Outcome<ServerConfig> {
        let name = match &self.model_name {
            Some(name) => name.clone(),
            None if is_demo => "demo".to_owned(),
            None => directory
                .canonicalize()
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "model".to_owned()),
        };
        let default = ServerConfig::named(name);
        let mut defaults = sampling_defaults(directory)?;
        defaults.max_tokens = self.default_max_tokens.unwrap_or(defaults.max_tokens).max(1);
        Ok(ServerConfig {
            aliases: self.alias.clone().unwrap_or_default(),
            limits: RequestLimits {
                body_bytes: self.max_body_bytes.unwrap_or(default.limits.body_bytes),
                sequences: self.max_sequences.unwrap_or(default.limits.sequences).max(1),
                ..default.limits
            },
            defaults,
            keys: self.keys()?,
            allowed_origins: self.cors_origin.clone().unwrap_or_default(),
            hosts,
            max_queue: self.max_queue.unwrap_or(default.max_queue),
            keep_alive: seconds("keep_alive_s", self.keep_alive_s, default.keep_alive)?,
            stall_after: seconds("stall_s", self.stall_s, default.stall_after)?,
            probe_timeout: seconds("stall_s", self.stall_s, default.probe_timeout)?,
            ..default
        })
    }

    /// The certificate and its key, if connections are to be encrypted.
    pub(crate) fn tls(&self) -> Outcome<Option<Tls>> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Tls::from_pem_files(certificate, key)?)),
            _ => Err("--tls-cert and --tls-key go together".into()),
        }
    }

    /// The listener's bounds.
    pub(crate) fn connections(&self) -> Outcome<ConnectionLimits> {
        let default = ConnectionLimits::default();
        Ok(ConnectionLimits {
            connections: self.max_connections.unwrap_or(default.connections).max(1),
            drain: seconds("drain_s", self.drain_s, default.drain)?,
            ..default
        })
    }
}

fn seconds(name: &str, given: Option<f64>, default: Duration) -> Outcome<Duration> {
    match given {
        None => Ok(default),
        Some(value) => Duration::try_from_secs_f64(value)
            .ok()
            .filter(|duration| (0.001..=86_400.0).contains(&duration.as_secs_f64()))
            .ok_or_else(|| format!("{name}: {value} is not within [0.001, 86400]").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn flags_win_over_the_file_and_unknown_names_are_errors() {
        let file: Settings =
            toml::from_str("port = 1\nhost = \"::1\"\n[engine]\nthreads = 3\nmax_batch = 4")
                .unwrap();
        let mut flags = Settings { port: Some(2), ..Settings::default() };
        flags.engine.max_batch = Some(8);
        let merged = flags.or(file);
        assert_eq!((merged.port, merged.host.as_deref()), (Some(2), Some("::1")));
        assert_eq!((merged.engine.threads, merged.engine.max_batch), (Some(3), Some(8)));
        assert!(toml::from_str::<Settings>("prot = 1").is_err());
        assert!(toml::from_str::<Settings>("[engine]\nthread = 1").is_err());
    }
}
