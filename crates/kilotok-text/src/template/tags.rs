//! Finding the tags of a template before the engine sees it.

use std::ops::Range;

/// Longest tag in bytes. The engine folds constants anew at every level of an expression, which
/// takes time quadratic in its length.
const MAX_TAG_BYTES: usize = 16 << 10;

/// Rewrites `{% generation %}...{% endgeneration %}` to `{% with %}...{% endwith %}`, and refuses
/// oversized tags.
///
/// Hugging Face templates mark assistant tokens for training with the block; it prints its body
/// in a scope of its own, as `with` does. Whitespace control markers stay as they are.
///
/// # Errors
/// Line (from 1) and length of a tag that is too long.
pub(super) fn prepare(source: &str) -> Result<String, (usize, usize)> {
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    for tag in tags(source) {
        if tag.len() > MAX_TAG_BYTES {
            return Err((1 + source[..tag.start].matches('\n').count(), tag.len()));
        }
        out.push_str(&source[copied..tag.start]);
        copied = tag.end;
        let text = &source[tag];
        match block_words(text) {
            Some("generation") => out.push_str(&text.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&text.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(text),
        }
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

/// What stands between `{%` and `%}`, without markers and space.
fn block_words(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    Some(inner.strip_suffix(['-', '+']).unwrap_or(inner).trim())
}

/// Byte ranges of `{{ }}` and `{% %}` tags; comments and raw blocks contain none.
fn tags(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = source[at..].find('{').map(|offset| at + offset) {
        let rest = &source[start..];
        at = if rest.starts_with("{#") {
            rest.find("#}").map_or(source.len(), |end| start + end + 2)
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            let end = start + tag_len(rest);
            found.push(start..end);
            if block_words(&source[start..end]) == Some("raw") {
                end_of_raw(source, end)
            } else {
                end
            }
        } else {
            start + 1
        };
    }
    found
}

/// Length of the tag `source` starts with, up to its closer outside strings and brackets.
fn tag_len(source: &str) -> usize {
    let bytes = source.as_bytes();
    let closer: &[u8] = if bytes[1] == b'%' { b"%}" } else { b"}}" };
    let (mut at, mut open_brackets, mut quote) = (2, 0usize, None);
    while at < bytes.len() {
        let byte = bytes[at];
        if let Some(open) = quote {
            match byte {
                b'\\' => at += 1,
                _ if byte == open => quote = None,
                _ => {}
            }
        } else if open_brackets == 0 && bytes[at..].starts_with(closer) {
            return at + 2;
        } else {
            match byte {
                b'"' | b'\'' => quote = Some(byte),
                b'(' | b'[' | b'{' => open_brackets += 1,
                b')' | b']' | b'}' => open_brackets = open_brackets.saturating_sub(1),
                _ => {}
            }
        }
        at += 1;
    }
    bytes.len()
}

fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(start) = source[at..].find("{%").map(|offset| at + offset) {
        let end = source[start..].find("%}").map_or(source.len(), |offset| start + offset + 2);
        if block_words(&source[start..end]) == Some("endraw") {
            return end;
        }
        at = start + 2;
    }
    source.len()
}

#[cfg(test)]
mod tests {
    use super::{prepare, tags};

    #[test]
    fn only_whole_tags_change() {
        let source = "{%- generation -%}a{% endgeneration +%}{%generation%}{%endgeneration%}";
        assert_eq!(prepare(source).unwrap(), "{%- with -%}a{% endwith +%}{%with%}{%endwith%}");
        for untouched in [
            "{% if add_generation_prompt %}generation {{ '%}' }}{% endif %}{% open",
            "{% raw %}{% generation %}{% endraw %}{# {% generation %} #}",
            "{{ '{% generation %}' }}{ {% set x = {'a': {}} %}",
        ] {
            assert_eq!(prepare(untouched).unwrap(), untouched);
        }
    }

    #[test]
    fn tags_end_outside_strings_and_brackets() {
        let source = r#"a {{ '}}' ~ "\"}}" ~ {'x': {'y': 1}} }} b {%- if '%}' -%} {# {{ #} {% raw %} {{ {%- endraw %}{{ z }}"#;
        let texts: Vec<&str> = tags(source).into_iter().map(|range| &source[range]).collect();
        assert_eq!(
            texts,
            [r#"{{ '}}' ~ "\"}}" ~ {'x': {'y': 1}} }}"#, "{%- if '%}' -%}", "{% raw %}", "{{ z }}"]
        );
        assert_eq!(tags("é {{ 'é").len(), 1);
    }

    #[test]
    fn oversized_tags_are_located() {
        let source = format!("a\nb{{{{ {} }}}}", "-".repeat(20_000));
        assert_eq!(prepare(&source), Err((2, 20_006)));
    }
}
