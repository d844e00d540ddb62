//! Errors and panics of the engine as the exception classes of `kilotok.errors`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kilotok::Error;
use kilotok_text::TextError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The exception class a failure is raised as.
#[derive(Clone, Copy)]
enum Class {
    Base,
    ModelFormat,
    OutOfMemory,
    Cancelled,
    EngineDead,
    NoGpu,
    Unsupported,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "Error",
            Self::ModelFormat => "ModelFormatError",
            Self::OutOfMemory => "OutOfMemoryError",
            Self::Cancelled => "CancelledError",
            Self::EngineDead => "EngineDeadError",
            Self::NoGpu => "NoGpuError",
            Self::Unsupported => "UnsupportedError",
        }
    }

    fn raise(self, message: String) -> PyErr {
        Python::attach(|py| match class(py, self.name()) {
            Ok(class) => PyErr::from_type(class, (message,)),
            Err(_) => PyRuntimeError::new_err(message),
        })
    }
}

/// Classes live in Python, so that both sides raise and catch the same ones.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE
        .get_or_try_init(py, || PyModule::import(py, "kilotok.errors").map(Bound::unbind))?
        .bind(py);
    Ok(module.getattr(name)?.cast_into::<PyType>()?)
}

/// An error of the engine as an exception.
pub(crate) fn raised(error: Error) -> PyErr {
    let class = match &error {
        Error::InvalidRequest { parameter, reason } => return invalid(parameter, reason),
        Error::Io { .. } | Error::ModelFormat { .. } => Class::ModelFormat,
        Error::OutOfMemory { .. } => Class::OutOfMemory,
        Error::Cancelled => Class::Cancelled,
        Error::EngineDead { .. } => Class::EngineDead,
        Error::NoGpu { .. } => Class::NoGpu,
        Error::Unsupported { .. } => Class::Unsupported,
        _ => Class::Base,
    };
    class.raise(error.to_string())
}

/// An error of the text layer as an exception.
pub(crate) fn text_raised(error: TextError) -> PyErr {
    match &error {
        TextError::InvalidRequest { parameter, reason } => invalid(parameter, reason),
        TextError::Io { .. } | TextError::Format { .. } | TextError::TemplateSyntax { .. } => {
            Class::ModelFormat.raise(error.to_string())
        }
        TextError::NoTokenizer { .. } => invalid("prompt", &error.to_string()),
        TextError::NoTemplate { .. }
        | TextError::TemplateRaised { .. }
        | TextError::TemplateRender { .. }
        | TextError::TemplateLimit { .. } => invalid("messages", &error.to_string()),
        _ => Class::Base.raise(error.to_string()),
    }
}

/// An `InvalidRequestError`, which carries the parameter's name.
pub(crate) fn invalid(parameter: &str, reason: &str) -> PyErr {
    Python::attach(|py| match class(py, "InvalidRequestError") {
        Ok(class) => PyErr::from_type(class, (parameter.to_owned(), reason.to_owned())),
        Err(error) => error,
    })
}

/// What every call on a closed engine raises.
pub(crate) fn closed() -> PyErr {
    raised(Error::EngineDead { reason: "it was closed".to_owned() })
}

/// Runs the body of an entry point; a panic inside is a bug, and is raised as `EngineDeadError`
/// instead of a `PanicException` that `except Exception` would miss.
pub(crate) fn guard<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        Err(raised(Error::EngineDead { reason: format!("internal error: {what}") }))
    })
}

/// Reading on after the last event.
pub(crate) fn ended() -> PyErr {
    Class::Base.raise("the stream has ended".to_owned())
}
