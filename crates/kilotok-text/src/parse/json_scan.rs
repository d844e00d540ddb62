//! A JSON validator that is fed character by character.

/// Deepest nesting that is still taken for JSON.
const MAX_DEPTH: usize = 128;

/// Decides whether text is JSON (RFC 8259, any value at the top) without keeping it.
#[derive(Debug, Clone)]
pub(super) struct JsonScanner {
    /// Open containers: `true` for an object.
    stack: Vec<bool>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value must begin.
    Value,
    /// Just behind `[`.
    ValueOrEnd,
    /// Just behind `{`.
    KeyOrEnd,
    /// Behind a comma in an object.
    Key,
    Colon,
    CommaOrEnd,
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// Hexadecimal digits still to come.
    Hex {
        key: bool,
        left: u8,
    },
    Literal(&'static str),
    Number(Number),
    /// The value is complete; whitespace may follow.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// `None` when `c` does not continue the number.
    fn next(self, c: char) -> Option<Self> {
        Some(match (self, c) {
            (Self::Minus, '0') => Self::Zero,
            (Self::Minus, '1'..='9') | (Self::Integer, '0'..='9') => Self::Integer,
            (Self::Zero | Self::Integer, '.') => Self::Point,
            (Self::Point | Self::Fraction, '0'..='9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, 'e' | 'E') => Self::Exponent,
            (Self::Exponent, '+' | '-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, '0'..='9') => {
                Self::ExponentDigits
            }
            _ => return None,
        })
    }

    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

pub(super) fn is_json_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

impl JsonScanner {
    pub(super) fn new() -> Self {
        Self { stack: Vec::new(), state: State::Value }
    }

    /// Open containers.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Nothing but whitespace was pushed.
    pub(super) fn at_start(&self) -> bool {
        self.stack.is_empty() && self.state == State::Value
    }

    /// Between the quotes of a string.
    pub(super) fn in_string(&self) -> bool {
        matches!(self.state, State::String { .. } | State::Escape { .. } | State::Hex { .. })
    }

    /// Between the quotes of an object's key.
    pub(super) fn in_key(&self) -> bool {
        matches!(
            self.state,
            State::String { key: true }
                | State::Escape { key: true }
                | State::Hex { key: true, .. }
        )
    }

    /// The next character that is not whitespace begins a value (or ends an empty array).
    pub(super) fn expects_value(&self) -> bool {
        matches!(self.state, State::Value | State::ValueOrEnd)
    }

    /// What was pushed is a whole JSON text.
    pub(super) fn is_complete(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Number(number) => self.stack.is_empty() && number.is_complete(),
            _ => false,
        }
    }

    /// Takes one more character; `false` when no JSON text begins like this. The scanner is not
    /// usable after that.
    pub(super) fn push(&mut self, c: char) -> bool {
        let next = match self.state {
            State::String { key } => match c {
                '"' if key => Some(State::Colon),
                '"' => Some(self.after_value()),
                '\\' => Some(State::Escape { key }),
                '\0'..='\x1f' => None,
                _ => Some(State::String { key }),
            },
            State::Escape { key } => match c {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => Some(State::String { key }),
                'u' => Some(State::Hex { key, left: 4 }),
                _ => None,
            },
            State::Hex { key, left } if c.is_ascii_hexdigit() => Some(if left > 1 {
                State::Hex { key, left: left - 1 }
            } else {
                State::String { key }
            }),
            State::Hex { .. } => None,
            State::Literal(rest) => match rest.strip_prefix(c) {
                Some("") => Some(self.after_value()),
                Some(rest) => Some(State::Literal(rest)),
                None => None,
            },
            State::Number(number) => match number.next(c) {
                Some(number) => Some(State::Number(number)),
                None if number.is_complete() => {
                    self.state = self.after_value();
                    return self.push(c);
                }
                None => None,
            },
            state if is_json_space(c) => Some(state),
            State::ValueOrEnd if c == ']' => self.close(false),
            State::Value | State::ValueOrEnd => self.begin_value(c),
            State::KeyOrEnd if c == '}' => self.close(true),
            State::Key | State::KeyOrEnd => (c == '"').then_some(State::String { key: true }),
            State::Colon => (c == ':').then_some(State::Value),
            State::CommaOrEnd => match (c, self.stack.last()) {
                (',', Some(true)) => Some(State::Key),
                (',', Some(false)) => Some(State::Value),
                ('}', _) => self.close(true),
                (']', _) => self.close(false),
                _ => None,
            },
            State::Done => None,
        };
        if let Some(next) = next {
            self.state = next;
        }
        next.is_some()
    }

    fn begin_value(&mut self, c: char) -> Option<State> {
        Some(match c {
            '"' => State::String { key: false },
            't' => State::Literal("rue"),
            'f' => State::Literal("alse"),
            'n' => State::Literal("ull"),
            '-' => State::Number(Number::Minus),
            '0' => State::Number(Number::Zero),
            '1'..='9' => State::Number(Number::Integer),
            '{' | '[' if self.stack.len() < MAX_DEPTH => {
                self.stack.push(c == '{');
                if c == '{' { State::KeyOrEnd } else { State::ValueOrEnd }
            }
            _ => return None,
        })
    }

    fn close(&mut self, object: bool) -> Option<State> {
        (self.stack.pop()? == object).then(|| self.after_value())
    }

    fn after_value(&self) -> State {
        if self.stack.is_empty() { State::Done } else { State::CommaOrEnd }
    }
}

#[cfg(test)]
mod tests {
    use super::JsonScanner;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    fn accepts(text: &str) -> bool {
        let mut scanner = JsonScanner::new();
        text.chars().all(|c| scanner.push(c)) && scanner.is_complete()
    }

    fn json_like() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"a\":",
            "\\",
            "\\u00e9",
            "\\n",
            "\n",
            " ",
            "1",
            "0",
            "-",
            ".",
            "e",
            "+",
            "true",
            "false",
            "null",
            "nul",
            "12.5e-3",
            "é",
            "{\"k\":[1,2]}",
            "\u{1}",
        ]);
        prop::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn accepts_exactly_what_serde_json_accepts(text in json_like()) {
            prop_assert_eq!(accepts(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok());
        }
    }

    #[test]
    fn nesting_is_limited() {
        for (depth, ok) in [(128, true), (129, false)] {
            assert_eq!(accepts(&("[".repeat(depth) + &"]".repeat(depth))), ok);
        }
    }
}
