//! The Jinja environment chat templates are written for.
//!
//! Settings follow `transformers`: an immutable sandbox with `trim_blocks`, `lstrip_blocks`, loop
//! controls, `tojson`, `raise_exception` and `strftime_now`, and no escaping.

use std::error::Error as StdError;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::{Clock, RenderLimits, builtins, json, methods, repr};

/// The message a template passed to `raise_exception`, carried through the engine's error.
#[derive(Debug)]
pub(super) struct Raised {
    pub(super) message: String,
}

impl Raised {
    pub(super) fn in_chain(error: &Error) -> Option<&Self> {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(raised) = error.downcast_ref::<Self>() {
                return Some(raised);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Raised {}

pub(super) fn build(limits: RenderLimits, clock: Clock) -> Environment<'static> {
    let mut environment = Environment::new();
    // The builder cannot fail: the delimiters are the default ones.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_fuel(Some(limits.fuel));
    environment.set_debug(false);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Number => {
            output.write_str(&repr::python_str(state, value)?).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(output, state, value),
    });
    environment.add_filter("string", |state: &State, value: &Value| repr::python_str(state, value));
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template")
            .with_source(Raised { message }))
    });
    environment.add_function("strftime_now", move |format: &str| clock.strftime(format));
    builtins::add(&mut environment);
    environment
}

/// The value of a float; integers are not floats.
pub(super) fn float_of(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}
