//! Filters and tests whose Python meaning differs from the engine's.
#![allow(clippy::needless_pass_by_value, reason = "filter arguments arrive by value")]

use std::borrow::Cow;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, Value};

use super::methods;

pub(super) fn add(environment: &mut Environment<'static>) {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    // In Python a string, a list, a dict and an undefined value are sequences and iterables.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), Undefined | String | Seq | Map)
    });
    environment.add_test("iterable", |value: &Value| {
        matches!(value.kind(), Undefined | String | Seq | Map | Iterable)
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("trim", trim);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
}

/// `default(default_value='', boolean=false)`.
fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let other = kwargs.get::<Option<Value>>("default_value")?.or(other);
    let boolean = kwargs.get::<Option<bool>>("boolean")?.or(boolean).unwrap_or(false);
    kwargs.assert_all_used()?;
    if value.is_undefined() || (boolean && !value.is_true()) {
        return Ok(other.unwrap_or_else(|| Value::from("")));
    }
    Ok(value)
}

/// `trim(chars=none)`.
fn trim(text: Cow<'_, str>, chars: Option<&str>) -> String {
    methods::strip_side(&text, chars, true, true).to_owned()
}

/// `int(default=0)`: what cannot be read is the default, never an error.
fn int(value: Value, default: Option<Value>) -> Value {
    let whole = value.as_str().and_then(|text| methods::strip(text).parse::<i128>().ok());
    let whole = whole.or_else(|| i128::try_from(value.clone()).ok()).or_else(|| {
        let float = as_float(&value)?.trunc();
        // Beyond 2^127 no integer type is left; Python would go on.
        (float.abs() < 1.7e38).then_some(float as i128)
    });
    whole.map_or_else(|| default.unwrap_or(Value::from(0)), Value::from)
}

/// `float(default=0.0)`.
fn float(value: Value, default: Option<Value>) -> Value {
    as_float(&value).map_or_else(|| default.unwrap_or(Value::from(0.0)), Value::from)
}

fn as_float(value: &Value) -> Option<f64> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => methods::strip(text).parse().ok(),
        (None, ValueKind::Bool) => Some(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()).ok(),
    }
}
