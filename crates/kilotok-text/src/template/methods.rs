//! The methods of Python's `str`, `dict` and `list` that chat templates call.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// `str.isspace` of one character: Unicode white space and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Called for methods the engine does not know, which are all of them.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            string_method(state, text, method, args)
        }
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq => list_method(value, method, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let all = |test: fn(char) -> bool| -> Result<Value, Error> {
        from_args::<()>(args)?;
        Ok(Value::from(!text.is_empty() && text.chars().all(test)))
    };
    let plain = |result: &dyn Fn() -> String| -> Result<Value, Error> {
        from_args::<()>(args)?;
        Ok(Value::from(result()))
    };
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            strip_side(text, chars, method != "rstrip", method != "lstrip").into()
        }
        "lower" | "casefold" => plain(&|| text.to_lowercase())?,
        "upper" => plain(&|| text.to_uppercase())?,
        "title" => plain(&|| title(text))?,
        "capitalize" => plain(&|| capitalize(text))?,
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric)?,
        "isalpha" => all(char::is_alphabetic)?,
        "isalnum" => all(char::is_alphanumeric)?,
        "isspace" => all(is_space)?,
        "islower" => plain_case(args, text, char::is_uppercase, char::is_lowercase)?,
        "isupper" => plain_case(args, text, char::is_lowercase, char::is_uppercase)?,
        "startswith" | "endswith" => affix(text, args, method == "startswith")?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "find" | "rfind" | "index" | "rindex" => position(text, args, method)?,
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            text.matches(part).count().into()
        }
        "replace" => replace(state, text, args)?,
        "split" | "rsplit" => split(text, args, method == "rsplit")?,
        "splitlines" => lines(text, args)?,
        "partition" | "rpartition" => partition(text, args, method == "rpartition")?,
        "join" => join(state, text, args)?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if method == "get" {
        let (key, default): (&Value, Option<Value>) = from_args(args)?;
        let found = map.get_item(key)?;
        return Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found });
    }
    if !matches!(method, "keys" | "values" | "items") {
        return Err(ErrorKind::UnknownMethod.into());
    }
    from_args::<()>(args)?;
    let mut list = Vec::new();
    for key in map.try_iter()?.checked() {
        let key = key?;
        list.push(match method {
            "keys" => key,
            "values" => map.get_item(&key)?,
            _ => Tuple::from([key.clone(), map.get_item(&key)?]).into(),
        });
    }
    Ok(Value::from(list))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = match method {
        "index" | "count" => from_args(args)?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    };
    let items: Vec<Value> = list.try_iter()?.checked().collect::<Result<_, _>>()?;
    if method == "count" {
        return Ok(items.iter().filter(|item| *item == wanted).count().into());
    }
    match items.iter().position(|item| item == wanted) {
        Some(index) => Ok(index.into()),
        None => Err(invalid(format!("{wanted} is not in the list"))),
    }
}

fn invalid(reason: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// `str.strip(chars)`, `lstrip` and `rstrip`.
pub(super) fn strip_side<'a>(
    text: &'a str,
    chars: Option<&str>,
    left: bool,
    right: bool,
) -> &'a str {
    let strip = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(strip) } else { text };
    if right { text.trim_end_matches(strip) } else { text }
}

/// Every letter after a non-letter in title case, every other one in lower case.
fn title(text: &str) -> String {
    recase(text, |previous| previous.is_some_and(char::is_alphabetic))
}

/// The first character in title case, every other one in lower case.
fn capitalize(text: &str) -> String {
    recase(text, |previous| previous.is_some())
}

/// Lower case where `lower` says so of the character before, title case elsewhere.
fn recase(text: &str, lower: fn(Option<char>) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ends_word = !chars.peek().is_some_and(|next| next.is_alphabetic());
        if !lower(previous) {
            push_title(&mut out, c);
        } else if c == 'Σ' && ends_word && previous.is_some_and(char::is_alphabetic) {
            out.push('ς');
        } else {
            out.extend(c.to_lowercase());
        }
        previous = Some(c);
    }
    out
}

/// Title case of one character: `ß` becomes `Ss`, not `SS`.
fn push_title(out: &mut String, c: char) {
    for (index, upper) in c.to_uppercase().enumerate() {
        if index == 0 {
            out.push(upper);
        } else {
            out.extend(upper.to_lowercase());
        }
    }
}

fn plain_case(
    args: &[Value],
    text: &str,
    forbidden: fn(char) -> bool,
    needed: fn(char) -> bool,
) -> Result<Value, Error> {
    from_args::<()>(args)?;
    Ok(Value::from(text.chars().any(needed) && !text.chars().any(forbidden)))
}

/// `startswith` and `endswith` take one string or a tuple of them.
fn affix(text: &str, args: &[Value], start: bool) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let matches = |part: &str| if start { text.starts_with(part) } else { text.ends_with(part) };
    if let Some(part) = wanted.as_str() {
        return Ok(Value::from(matches(part)));
    }
    for part in wanted.try_iter()?.checked() {
        let part = part?;
        let part = part.as_str().ok_or_else(|| invalid("expected a string or strings"))?;
        if matches(part) {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

/// Positions count characters, as in Python.
fn position(text: &str, args: &[Value], method: &str) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    let at = if method.starts_with('r') { text.rfind(part) } else { text.find(part) };
    match at {
        Some(at) => Ok(text[..at].chars().count().into()),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("substring not found")),
    }
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let limit = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let hits = text.matches(old).count().min(limit);
    // Paid for before it is made: the result can be far longer than both inputs.
    let grown = (hits as u64).saturating_mul(new.len() as u64);
    state.consume_fuel(grown / 64)?;
    Ok(text.replacen(old, new, hits).into())
}

fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, maxsplit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = kwargs.get::<Option<&str>>("sep")?.or(separator);
    let maxsplit = kwargs.get::<Option<i64>>("maxsplit")?.or(maxsplit);
    kwargs.assert_all_used()?;
    let splits = maxsplit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let pieces = splits.saturating_add(1);
    let list = match (separator, from_right) {
        (Some(""), _) => return Err(invalid("empty separator")),
        (Some(separator), false) => text.splitn(pieces, separator).map(Value::from).collect(),
        (Some(separator), true) => {
            let mut list: Vec<Value> = text.rsplitn(pieces, separator).map(Value::from).collect();
            list.reverse();
            list
        }
        (None, false) => split_words(text, splits),
        (None, true) => split_words_from_right(text, splits),
    };
    Ok(Value::from(list))
}

/// Words between runs of white space; what is left after `splits` cuts keeps its inner space.
fn split_words(text: &str, splits: usize) -> Vec<Value> {
    let mut list = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if list.len() == splits { None } else { rest.find(is_space) };
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        list.push(Value::from(word));
        rest = tail.trim_start_matches(is_space);
    }
    // Like Python, the uncut remainder keeps its trailing space.
    list
}

fn split_words_from_right(text: &str, splits: usize) -> Vec<Value> {
    let mut list = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let cut = if list.len() == splits { None } else { rest.rfind(is_space) };
        let start = cut.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
        list.push(Value::from(&rest[start..]));
        rest = rest[..start].trim_end_matches(is_space);
    }
    list.reverse();
    list
}

fn lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep,): (Option<bool>,) = from_args(args)?;
    let is_break = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'
                ..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut list = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, width) = match rest.find(is_break) {
            None => (rest.len(), 0),
            Some(at) if rest[at..].starts_with("\r\n") => (at, 2),
            Some(at) => (at, rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        let shown = if keep == Some(true) { line + width } else { line };
        list.push(Value::from(&rest[..shown]));
        rest = &rest[line + width..];
    }
    Ok(Value::from(list))
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match (cut, from_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let text = item.as_str().ok_or_else(|| {
            invalid(format!("join: item {index} is {}, not a string", item.kind()))
        })?;
        state.consume_fuel(1 + (separator.len() + text.len()) as u64 / 64)?;
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(out.into())
}
