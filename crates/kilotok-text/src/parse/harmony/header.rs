//! The header of a Harmony message.

use super::super::{Channel, MAX_NAME_BYTES};
use super::tag::Tag;

/// Longest header, in bytes.
const MAX_HEADER_BYTES: usize = 1024;
const ROLE: &str = "assistant";
const CHANNELS: [&str; 3] = ["analysis", "commentary", "final"];
/// Kinds of content that are written without `<|constrain|>`.
const KINDS: [&str; 3] = ["json", "code", "text"];
const RECIPIENT: &str = "to=";

/// A header as far as it has been read:
/// `assistant[ to=X]<|channel|>NAME[ to=X][ KIND][<|constrain|>KIND]<|message|>`.
///
/// Strict on purpose: everything a header may hold has a meaning, so nothing gets lost when it is
/// taken for a header, and what is no header is text.
#[derive(Debug)]
pub(super) struct Header {
    /// Everything read of it.
    pub(super) markup: String,
    section: Section,
    word: String,
    /// The section has its leading word, or needs none.
    led: bool,
    channel: Option<String>,
    recipient: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Role,
    Channel,
    Kind,
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addressed {
    /// Where text of the message belongs.
    pub(super) channel: Channel,
    /// The tool that is called.
    pub(super) tool: Option<String>,
}

impl Header {
    /// Begins behind a `<|start|>assistant` that the prompt ends with.
    pub(super) fn behind_role() -> Self {
        Self {
            markup: String::new(),
            section: Section::Role,
            word: String::new(),
            led: true,
            channel: None,
            recipient: None,
        }
    }

    /// Begins with `tag`, which must be `<|start|>` or `<|channel|>`.
    pub(super) fn begin(tag: Tag) -> Self {
        let section = if tag == Tag::Start { Section::Role } else { Section::Channel };
        let markup = tag.text().to_owned();
        Self { markup, section, led: false, ..Self::behind_role() }
    }

    /// `false` when `c` has no place here; it is not in the markup and the header is of no more use.
    pub(super) fn push(&mut self, c: char) -> bool {
        if self.markup.len() >= MAX_HEADER_BYTES {
            return false;
        }
        let fits = if c == ' ' { self.end_word() } else { self.grow_word(c) };
        if fits {
            self.markup.push(c);
        }
        fits
    }

    fn grow_word(&mut self, c: char) -> bool {
        self.word.push(c);
        let word = self.word.as_str();
        if !self.led {
            match self.section {
                Section::Role => ROLE.starts_with(word),
                Section::Channel => CHANNELS.iter().any(|name| name.starts_with(word)),
                Section::Kind => KINDS.iter().any(|kind| kind.starts_with(word)),
            }
        } else if let Some(name) = word.strip_prefix(RECIPIENT) {
            self.recipient.is_none() && name.len() <= MAX_NAME_BYTES && is_name(name)
        } else {
            (self.recipient.is_none() && RECIPIENT.starts_with(word))
                || (self.section == Section::Channel && KINDS.iter().any(|k| k.starts_with(word)))
        }
    }

    /// `false` when the word at hand is not whole.
    fn end_word(&mut self) -> bool {
        if self.word.is_empty() {
            return true;
        }
        let word = self.word.as_str();
        if !self.led {
            let whole = match self.section {
                Section::Role => word == ROLE,
                Section::Channel => CHANNELS.contains(&word),
                Section::Kind => KINDS.contains(&word),
            };
            if !whole {
                return false;
            }
            if self.section == Section::Channel {
                self.channel = Some(word.to_owned());
            }
            self.led = true;
        } else if let Some(name) = word.strip_prefix(RECIPIENT) {
            if name.trim_start_matches("functions.").is_empty() {
                return false;
            }
            self.recipient = Some(name.to_owned());
        } else if !KINDS.contains(&word) {
            return false;
        }
        self.word.clear();
        true
    }

    /// Takes `<|channel|>` or `<|constrain|>`; `false` when it has no place here.
    pub(super) fn tag(&mut self, tag: Tag) -> bool {
        let next = match (tag, self.section) {
            (Tag::Channel, Section::Role) => Section::Channel,
            (Tag::Constrain, Section::Role | Section::Channel) => Section::Kind,
            _ => return false,
        };
        if !self.end_section() {
            return false;
        }
        self.section = next;
        self.led = false;
        self.markup.push_str(tag.text());
        true
    }

    /// Takes `<|message|>`; `None` when the header is not whole.
    pub(super) fn finish(&mut self) -> Option<Addressed> {
        if !self.end_section() {
            return None;
        }
        self.markup.push_str(Tag::Message.text());
        let channel = match self.channel.as_deref() {
            Some("analysis") => Channel::Reasoning,
            _ => Channel::Content,
        };
        let tool = self.recipient.take().map(|name| match name.strip_prefix("functions.") {
            Some(function) => function.to_owned(),
            None => name,
        });
        Some(Addressed { channel, tool })
    }

    fn end_section(&mut self) -> bool {
        self.end_word() && self.led
    }
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'))
}
