//! The one error type of this crate.

use std::path::PathBuf;

use crate::GrammarPart;

/// What can go wrong between text and tokens. Messages name what was wrong and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer or template file exists but cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("{path} is not usable: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The operation needs text but the model came without tokenizer files.
    #[error(
        "{operation} needs a tokenizer, but the model directory has no tokenizer.json; \
         pass token ids and read token ids instead"
    )]
    NoTokenizer {
        /// What was asked for.
        operation: &'static str,
    },
    /// The tokenizer library refused an input.
    #[error("tokenizer failed to {operation}: {reason}")]
    Tokenizer {
        /// `encode` or `decode`.
        operation: &'static str,
        /// The library's reason.
        reason: String,
    },
    /// The checkpoint has no chat template, or none of the requested name.
    #[error("no chat template{}; available: {}", name_suffix(.requested.as_deref()), list(.available))]
    NoTemplate {
        /// The name asked for, `None` for the default template.
        requested: Option<String>,
        /// Names that exist.
        available: Vec<String>,
    },
    /// The template is not valid Jinja.
    #[error("chat template `{name}` does not compile at line {line}: {reason}")]
    TemplateSyntax {
        /// Template name, `default` for an unnamed one.
        name: String,
        /// Line in the template source, counted from 1 (0 when unknown).
        line: usize,
        /// What the parser expected.
        reason: String,
    },
    /// The template called `raise_exception`.
    #[error("the chat template rejected the conversation: {message}")]
    TemplateRaised {
        /// The template's own words.
        message: String,
    },
    /// The template failed while rendering.
    #[error("chat template `{name}` failed at line {line}: {reason}")]
    TemplateRender {
        /// Template name, `default` for an unnamed one.
        name: String,
        /// Line in the template source, counted from 1 (0 when unknown).
        line: usize,
        /// What happened.
        reason: String,
    },
    /// The template used more work or wrote more output than it is allowed to.
    #[error("chat template `{name}` exceeded its {limit}")]
    TemplateLimit {
        /// Template name, `default` for an unnamed one.
        name: String,
        /// Which limit, with its value.
        limit: String,
    },
    /// The engine underneath refused or ended the request.
    #[error(transparent)]
    Engine(#[from] kilotok::Error),
    /// A rule for the output cannot be compiled, or not for this model.
    #[error("{part} cannot be enforced: {reason}")]
    Grammar {
        /// Which rule.
        part: GrammarPart,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter of a request is out of range or contradicts another one.
    #[error("invalid {parameter}: {reason}")]
    InvalidRequest {
        /// Name of the parameter.
        parameter: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
}

fn name_suffix(requested: Option<&str>) -> String {
    requested.map_or_else(String::new, |name| format!(" named `{name}`"))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
