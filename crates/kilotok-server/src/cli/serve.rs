//! `kilotok serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{App, Drained, Hosts, Listener, LoadProgress, router, serve};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::settings::Settings;
use super::{CUT_OFF, DONE, Outcome, logging, model, tracing_export};

/// The command.
#[derive(Args)]
pub(crate) struct Serve {
    /// TOML file with settings; flags and the environment win over it
    #[arg(long, env = "KILOTOK_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// Serves until a signal ends it.
    pub(crate) fn run(self, demo: Option<&Path>) -> Outcome {
        let settings = match &self.config {
            Some(path) => self.settings.or(Settings::from_file(path)?),
            None => self.settings,
        };
        let filter = settings.log.clone().unwrap_or_else(|| "info".to_owned());
        // Before the runtime: the exporter has a thread of its own, which outlives the last span.
        let exporter = settings.otlp_endpoint.as_deref().map(tracing_export::start).transpose()?;
        logging::start(settings.log_format.unwrap_or_default(), &filter, exporter.as_ref())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.io_threads.unwrap_or(cores.min(4)).clamp(1, 64))
            // Encoding prompts; more threads would only fight for the cores.
            .max_blocking_threads(cores.clamp(2, 16))
            // Threads that come and go take their heaps from the allocator's many arenas in turn,
            // and each of those keeps what it needed once.
            .thread_keep_alive(Duration::from_secs(3600))
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(run(settings, demo));
        // A model that is still loading must not hold up the end.
        runtime.shutdown_background();
        if let Some(exporter) = exporter {
            exporter.finish();
        }
        outcome
    }
}

async fn run(settings: Settings, demo: Option<&Path>) -> Outcome {
    let (directory, is_demo) = model::locate(settings.model.as_deref(), demo)?;
    let host = settings.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = settings.port.unwrap_or(8000);
    let listener = listen(&host, port).await?;
    let address = listener.local_addr()?;
    let tls = settings.tls()?;
    let keys = settings.keys()?;
    let open = keys.is_empty();
    if open && !address.ip().is_loopback() && settings.insecure != Some(true) {
        return Err(format!(
            "refusing to listen at {address} without API keys: set KILOTOK_API_KEY or \
             --api-key-file, or pass --insecure"
        )
        .into());
    }
    let hosts = if open && address.ip().is_loopback() { Hosts::Local } else { Hosts::Any };
    let app = App::new(settings.server(&directory, is_demo, hosts)?);
    let connections = settings.connections()?;
    let name = app.config().model.clone();
    tracing::info!(%address, model = name, keys = keys.len(), "listening");
    let scheme = if tls.is_some() { "https" } else { "http" };
    logging::say(&format!("kilotok: serving {name} at {scheme}://{address}\n"));
    let listener = match tls {
        Some(tls) => Listener::tls(listener, tls),
        None => Listener::from(listener),
    };
    let mut loaded = load(&app, settings, directory);
    let mut signals = signals()?;
    let mut second = signals.clone();
    let ended = async {
        tokio::select! {
            _ = signals.wait_for(|count| *count > 0) => {}
            // Ends only where loading failed.
            () = failure(&mut loaded) => {}
        }
    };
    let abort = async move {
        let _ = second.wait_for(|count| *count > 1).await;
    };
    let routes = router(app.clone());
    let drained = serve(listener, app.clone(), routes, connections, ended, abort).await;
    if let Some(reason) = loaded.borrow().clone() {
        return Err(reason.into());
    }
    tracing::info!(?drained, "stopped");
    Ok(if drained == Drained::Complete { DONE } else { CUT_OFF })
}

async fn listen(host: &str, port: u16) -> Outcome<TcpListener> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| format!("--host {host}: {error}"))?
        .collect();
    TcpListener::bind(addresses.as_slice())
        .await
        .map_err(|error| format!("cannot listen at {host}:{port}: {error}").into())
}

/// Loads on a thread of its own; the receiver learns why it failed.
fn load(app: &App, settings: Settings, directory: PathBuf) -> watch::Receiver<Option<String>> {
    let (failed, receiver) = watch::channel(None);
    let app = app.clone();
    std::thread::spawn(move || {
        let started = Instant::now();
        let mut progress = |progress: kilotok::weights::Progress| {
            app.loading(LoadProgress {
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
                file: progress.file,
            });
        };
        let engine = match settings.simulate {
            Some(rate) => model::simulate(&directory, &settings.engine, rate),
            None => model::load(&directory, &settings.engine, &mut progress),
        };
        match engine {
            Ok(engine) => {
                app.ready(engine);
                tracing::info!(seconds = started.elapsed().as_secs_f64(), "ready");
            }
            Err(error) => {
                let reason = error.to_string();
                app.failed(reason.clone());
                let _ = failed.send(Some(reason));
            }
        }
    });
    receiver
}

async fn failure(loaded: &mut watch::Receiver<Option<String>>) {
    if loaded.wait_for(Option::is_some).await.is_err() {
        // Loading went well and nothing more will come.
        std::future::pending::<()>().await;
    }
}

/// Counts SIGTERM and SIGINT.
fn signals() -> Outcome<watch::Receiver<u32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(receiver)
}
