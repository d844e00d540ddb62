//! The checkpoint's chat template, rendered as Hugging Face renders it, in a sandbox.
//!
//! The template is data from the internet. It can reach nothing but the values given to it: no
//! files, no includes, no attributes of host objects. Work, output and recursion are limited.

mod builtins;
mod clock;
mod environment;
mod json;
mod methods;
mod number;
mod repr;
mod sources;
mod stack;
mod tags;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use self::clock::Clock;
use self::environment::Raised;
use crate::{SpecialTokens, TextError};

const DEFAULT: &str = "default";
/// Variables the renderer sets itself; extra variables may not replace them.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Bounds on one rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenderLimits {
    /// Units of work: about one per executed instruction and one per 64 bytes handled.
    pub fuel: u64,
    /// Bytes of rendered text.
    pub output_bytes: usize,
}

impl Default for RenderLimits {
    fn default() -> Self {
        Self { fuel: 4_000_000, output_bytes: 32 << 20 }
    }
}

/// What a conversation looks like to the template.
#[derive(Debug, Clone, Default)]
pub struct TemplateInput {
    /// Objects with at least a `role`; usually `content`, `tool_calls`, ... in any shape the
    /// template understands.
    pub messages: Vec<Json>,
    /// Tool definitions, as the template expects them (usually `{"type": "function", ...}`).
    pub tools: Option<Vec<Json>>,
    /// Documents for retrieval templates.
    pub documents: Option<Vec<Json>>,
    /// Ends the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Ends the prompt inside the last message, so that generation continues it.
    pub continue_final_message: bool,
    /// Which of several named templates; `None` follows Hugging Face: `tool_use` when there are
    /// tools and such a template, else `default`.
    pub template: Option<String>,
    /// More variables, such as `enable_thinking`. They override special tokens of the same name.
    pub kwargs: Map<String, Json>,
}

/// One or several named Jinja chat templates.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Map<String, Json>,
    limits: RenderLimits,
}

impl ChatTemplate {
    /// Finds the template of a model directory: `chat_template.jinja` and
    /// `additional_chat_templates/*.jinja`, else `chat_template` in `tokenizer_config.json` (a
    /// string or a list of named ones). `None` when there is none.
    ///
    /// # Errors
    /// [`TextError::Io`], [`TextError::Format`] or [`TextError::TemplateSyntax`].
    pub fn from_dir(dir: &Path, special_tokens: &SpecialTokens) -> Result<Option<Self>, TextError> {
        let sources = sources::read(dir)?;
        if sources.is_empty() {
            return Ok(None);
        }
        Self::new(&sources, special_tokens, RenderLimits::default(), Clock::System).map(Some)
    }

    /// Compiles one template.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`].
    pub fn from_source(source: &str) -> Result<Self, TextError> {
        let sources = BTreeMap::from([(DEFAULT.to_owned(), source.to_owned())]);
        Self::new(&sources, &SpecialTokens::default(), RenderLimits::default(), Clock::System)
    }

    /// Compiles named templates with explicit limits and clock.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] naming the template and line.
    pub fn new(
        sources: &BTreeMap<String, String>,
        special_tokens: &SpecialTokens,
        limits: RenderLimits,
        clock: Clock,
    ) -> Result<Self, TextError> {
        let mut environment = environment::build(limits, clock);
        for (name, source) in sources {
            compile(&mut environment, name, source)?;
        }
        let special_tokens = special_tokens.as_map().clone();
        Ok(Self { environment, special_tokens, limits })
    }

    /// Names of the templates, ascending.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.environment.templates().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// The source of all templates, one after the other: what markup they write can be looked up.
    pub fn source(&self) -> String {
        self.environment.templates().map(|(_, template)| template.source().to_owned()).collect()
    }

    /// Renders the prompt text.
    ///
    /// # Errors
    /// [`TextError::TemplateRaised`] when the template rejects the conversation,
    /// [`TextError::TemplateLimit`], [`TextError::TemplateRender`], [`TextError::NoTemplate`], or
    /// [`TextError::InvalidRequest`] for input no template can take.
    pub fn render(&self, input: &TemplateInput) -> Result<String, TextError> {
        check(input)?;
        let name = self.select(input)?;
        let missing =
            || TextError::NoTemplate { requested: Some(name.to_owned()), available: self.names() };
        let template = self.environment.get_template(name).map_err(|_| missing())?;
        let result = stack::with_room_for(0, self.limits.fuel, || {
            let limit = self.limits.output_bytes;
            let mut output = LimitedOutput { bytes: Vec::new(), limit, exceeded: false };
            let result = template.render_captured_to(self.context(input), &mut output).map(drop);
            (result, output)
        });
        let failed = |reason| TextError::TemplateRender { name: name.to_owned(), line: 0, reason };
        let (result, output) = result.map_err(|error| failed(error.to_string()))?;
        if output.exceeded {
            let limit = format!("output limit of {} bytes", self.limits.output_bytes);
            return Err(TextError::TemplateLimit { name: name.to_owned(), limit });
        }
        result.map_err(|error| self.render_error(name, &error))?;
        let text = String::from_utf8(output.bytes).map_err(|error| failed(error.to_string()))?;
        if input.continue_final_message { cut_after_final_message(text, input) } else { Ok(text) }
    }

    fn select<'a>(&'a self, input: &'a TemplateInput) -> Result<&'a str, TextError> {
        let has = |name: &str| self.environment.get_template(name).is_ok();
        match &input.template {
            Some(name) if has(name) => Ok(name),
            None if input.tools.is_some() && has("tool_use") => Ok("tool_use"),
            None if has(DEFAULT) => Ok(DEFAULT),
            requested => {
                Err(TextError::NoTemplate { requested: requested.clone(), available: self.names() })
            }
        }
    }

    fn context(&self, input: &TemplateInput) -> Value {
        let list = |list: &Option<Vec<Json>>| {
            list.as_ref().map_or(Value::from(()), |items| json::to_values(items))
        };
        let extra =
            self.special_tokens.iter().filter(|(name, _)| !input.kwargs.contains_key(*name));
        let mut pairs: Vec<(Value, Value)> = extra
            .chain(&input.kwargs)
            .map(|(name, value)| (Value::from(name), json::to_value(value)))
            .collect();
        pairs.push(("messages".into(), json::to_values(&input.messages)));
        pairs.push(("tools".into(), list(&input.tools)));
        pairs.push(("documents".into(), list(&input.documents)));
        pairs.push(("add_generation_prompt".into(), input.add_generation_prompt.into()));
        Value::from_pairs(pairs)
    }

    fn render_error(&self, name: &str, error: &minijinja::Error) -> TextError {
        let name = name.to_owned();
        if let Some(raised) = Raised::in_chain(error) {
            return TextError::TemplateRaised { message: raised.message.clone() };
        }
        if error.kind() == ErrorKind::OutOfFuel {
            let limit = format!("work limit of {} units", self.limits.fuel);
            return TextError::TemplateLimit { name, limit };
        }
        TextError::TemplateRender {
            name,
            line: error.line().unwrap_or(0),
            reason: reason_of(error),
        }
    }
}

fn compile(
    environment: &mut Environment<'static>,
    name: &str,
    source: &str,
) -> Result<(), TextError> {
    let invalid =
        |line, reason| Err(TextError::TemplateSyntax { name: name.to_owned(), line, reason });
    if source.len() > stack::MAX_SOURCE_BYTES {
        let (found, most) = (source.len(), stack::MAX_SOURCE_BYTES);
        return invalid(0, format!("the source has {found} bytes, at most {most} allowed"));
    }
    let source = match tags::prepare(&source.replace("\r\n", "\n").replace('\r', "\n")) {
        Ok(source) => source,
        Err((line, bytes)) => return invalid(line, format!("a tag of {bytes} bytes is too long")),
    };
    let add = || environment.add_template_owned(name.to_owned(), source);
    match stack::with_room_for(stack::MAX_SOURCE_BYTES, 0, add) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => invalid(error.line().unwrap_or(0), reason_of(&error)),
        Err(error) => invalid(0, error.to_string()),
    }
}

fn check(input: &TemplateInput) -> Result<(), TextError> {
    let invalid = |parameter, reason| Err(TextError::InvalidRequest { parameter, reason });
    if input.messages.is_empty() {
        return invalid("messages", "the list is empty, expected at least one message".to_owned());
    }
    if let Some(index) = input.messages.iter().position(|message| !message.is_object()) {
        return invalid("messages", format!("message {index} is not an object with a `role`"));
    }
    if let Some(name) = RESERVED.iter().find(|name| input.kwargs.contains_key(**name)) {
        return invalid(
            "chat_template_kwargs",
            format!("`{name}` is set by the request itself and cannot be overridden"),
        );
    }
    if input.continue_final_message && input.add_generation_prompt {
        return invalid(
            "continue_final_message",
            "cannot be combined with add_generation_prompt: a prompt ends in one place".to_owned(),
        );
    }
    Ok(())
}

/// Drops what the template writes after the content of the last message.
fn cut_after_final_message(mut text: String, input: &TemplateInput) -> Result<String, TextError> {
    let content = input.messages.last().and_then(|message| message.get("content"));
    let invalid = |reason: &str| TextError::InvalidRequest {
        parameter: "continue_final_message",
        reason: reason.to_owned(),
    };
    let content = content
        .and_then(Json::as_str)
        .ok_or_else(|| invalid("the last message has no text `content` to continue"))?;
    let stripped = methods::strip(content);
    let at = text
        .rfind(stripped)
        .ok_or_else(|| invalid("the template does not show the last message's content as given"))?;
    // Trailing space of the message belongs to it, if the template kept it.
    let kept = content.trim_start_matches(methods::is_space);
    let end = if text[at..].starts_with(kept) { at + kept.len() } else { at + stripped.len() };
    text.truncate(end);
    Ok(text)
}

fn reason_of(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Collects output up to a limit and refuses more.
struct LimitedOutput {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for LimitedOutput {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
