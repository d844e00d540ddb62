//! Stop strings over streamed text.

use std::collections::{BTreeMap, VecDeque};

use crate::TextError;

/// Longest stop string accepted, in bytes, and the most of them per request.
const MAX_STOP_BYTES: usize = 4096;
const MAX_STOP_STRINGS: usize = 256;

/// Which stop string ended the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopMatch {
    /// Index into the list the matcher was built from.
    pub index: usize,
    /// The stop string.
    pub text: String,
}

/// What [`StopMatcher::push`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// Text that is now certain: it is neither part of a match nor the beginning of a possible one.
    pub text: String,
    /// Set once; every later push returns nothing.
    pub matched: Option<StopMatch>,
}

/// Finds the first of several stop strings in a stream of text pieces.
///
/// *First* is the match that ends earliest; among those, the longest. This does not depend on how
/// the text is cut into pieces. A suffix that could still grow into a stop string is held back, so
/// no part of a stop string is ever shown (unless `include_stop` asks for all of it). An
/// Aho-Corasick automaton keeps the work proportional to the text, whatever the patterns.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<String>,
    nodes: Vec<Node>,
    include_stop: bool,
    state: usize,
    /// Recent text; everything before `shown` has been returned already.
    text: String,
    shown: usize,
    done: bool,
}

#[derive(Debug, Clone, Default)]
struct Node {
    next: BTreeMap<u8, usize>,
    fail: usize,
    /// Bytes from the root: the length of the longest suffix of the text that starts a pattern.
    depth: usize,
    /// Longest pattern that ends here, directly or through failure links.
    pattern: Option<usize>,
}

impl StopMatcher {
    /// Builds the automaton. An empty list is fine: everything passes straight through.
    ///
    /// # Errors
    /// [`TextError::InvalidRequest`] for an empty or overlong stop string or too many of them.
    pub fn new(stop: &[String], include_stop: bool) -> Result<Self, TextError> {
        let invalid = |reason| Err(TextError::InvalidRequest { parameter: "stop", reason });
        if stop.len() > MAX_STOP_STRINGS {
            return invalid(format!("{} strings, at most {MAX_STOP_STRINGS} allowed", stop.len()));
        }
        for (index, pattern) in stop.iter().enumerate() {
            if pattern.is_empty() {
                return invalid(format!("string {index} is empty"));
            }
            if pattern.len() > MAX_STOP_BYTES {
                let len = pattern.len();
                return invalid(format!(
                    "string {index} has {len} bytes, at most {MAX_STOP_BYTES} allowed"
                ));
            }
        }
        Ok(Self {
            patterns: stop.to_vec(),
            nodes: build_automaton(stop),
            include_stop,
            state: 0,
            text: String::new(),
            shown: 0,
            done: false,
        })
    }

    /// Feeds the next piece of text and returns what can be shown.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.done {
            return StopStep { text: String::new(), matched: None };
        }
        let fed = self.text.len();
        self.text.push_str(piece);
        for (offset, &byte) in piece.as_bytes().iter().enumerate() {
            self.state = self.step(self.state, byte);
            if let Some(index) = self.nodes[self.state].pattern {
                return self.finish_with(index, fed + offset + 1);
            }
        }
        let text = self.show_until(self.text.len() - self.nodes[self.state].depth);
        StopStep { text, matched: None }
    }

    /// Ends the text and returns what was held back; nothing after a match.
    pub fn finish(&mut self) -> String {
        if self.done {
            return String::new();
        }
        self.done = true;
        self.show_until(self.text.len())
    }

    /// Whether a stop string has been found or the text has been finished.
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn finish_with(&mut self, index: usize, end: usize) -> StopStep {
        self.done = true;
        let pattern = self.patterns[index].clone();
        let text = self.show_until(if self.include_stop { end } else { end - pattern.len() });
        StopStep { text, matched: Some(StopMatch { index, text: pattern }) }
    }

    fn show_until(&mut self, end: usize) -> String {
        let text = self.text[self.shown..end].to_owned();
        self.shown = end;
        // Forgetting only when the shown half is the larger one keeps the copying linear.
        if self.shown > self.text.len() / 2 {
            self.text.drain(..self.shown);
            self.shown = 0;
        }
        text
    }

    fn step(&self, mut state: usize, byte: u8) -> usize {
        loop {
            if let Some(&next) = self.nodes[state].next.get(&byte) {
                return next;
            }
            if state == 0 {
                return 0;
            }
            state = self.nodes[state].fail;
        }
    }
}

fn build_automaton(patterns: &[String]) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    for (index, pattern) in patterns.iter().enumerate() {
        let mut state = 0;
        for &byte in pattern.as_bytes() {
            let fresh = nodes.len();
            let depth = nodes[state].depth + 1;
            let next = *nodes[state].next.entry(byte).or_insert(fresh);
            if next == fresh {
                nodes.push(Node { depth, ..Node::default() });
            }
            state = next;
        }
        nodes[state].pattern.get_or_insert(index);
    }
    let mut queue = VecDeque::from([0]);
    while let Some(state) = queue.pop_front() {
        for (byte, child) in nodes[state].next.clone() {
            let fail = if state == 0 { 0 } else { failure(&nodes, nodes[state].fail, byte) };
            nodes[child].fail = fail;
            // Breadth first: the shorter suffix is complete, and only fills a gap, so that the
            // longest pattern ending at a place wins.
            nodes[child].pattern = nodes[child].pattern.or(nodes[fail].pattern);
            queue.push_back(child);
        }
    }
    nodes
}

fn failure(nodes: &[Node], mut state: usize, byte: u8) -> usize {
    loop {
        if let Some(&next) = nodes[state].next.get(&byte) {
            return next;
        }
        if state == 0 {
            return 0;
        }
        state = nodes[state].fail;
    }
}
