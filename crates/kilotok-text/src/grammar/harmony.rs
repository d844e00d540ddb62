//! Rules for a whole turn in Harmony markup (gpt-oss), from behind `<|start|>assistant`.

use std::fmt::Write as _;

use super::calls::{arguments_schema, markup, wrong};
use super::spec::{json_rule, literal};
use super::{CallMode, CallRule, GrammarPart, OutputRules};
use crate::{TextError, Tokenizer};

const PROMPT_END: &str = "<|start|>assistant";

/// Text of a grammar whose rule `answer` (a grammar of that name) is the body of the final message.
pub(super) fn turn(
    tokenizer: &Tokenizer,
    prompt: &str,
    rules: &OutputRules,
) -> Result<String, TextError> {
    let part = if rules.answer.is_some() { GrammarPart::Answer } else { GrammarPart::Calls };
    if !prompt.ends_with(PROMPT_END) {
        return Err(wrong(part, "the prompt has begun the answer"));
    }
    let tag = |text: &str| markup(tokenizer.token_to_id(text), text);
    let (start, end, channel) = (tag("<|start|>"), tag("<|end|>"), tag("<|channel|>"));
    let (message, constrain) = (tag("<|message|>"), tag("<|constrain|>"));
    let mut last = Vec::new();
    if rules.mode != CallMode::Required {
        last.push(format!("{channel} \"final\" final_body"));
    }
    for index in 0..rules.calls.len() {
        last.push(format!("call_{index}"));
    }
    let mut text = format!(
        "start: aside* last\n\
         aside: {channel} (\"analysis\" | \"commentary\") {message} TEXT {end} {start} \"assistant\"\n\
         TEXT: /(?s:.*)/\n\
         last: {}\n",
        last.join(" | ")
    );
    if rules.mode != CallMode::Required {
        let answer = if rules.answer.is_some() {
            format!("({constrain} \"json\")? {message} @answer")
        } else {
            format!("{message} TEXT")
        };
        let _ = writeln!(text, "final_body: {answer}");
    }
    for (index, call) in rules.calls.iter().enumerate() {
        text.push_str(&call_rule(call, index, &channel, &constrain, &message)?);
    }
    Ok(text)
}

fn call_rule(
    call: &CallRule,
    index: usize,
    channel: &str,
    constrain: &str,
    message: &str,
) -> Result<String, TextError> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if call.name.is_empty() || !call.name.chars().all(fits) {
        let reason = format!("the model cannot write the name {:?}", call.name);
        return Err(wrong(GrammarPart::Call(index), reason));
    }
    let schema = arguments_schema(call, index)?;
    let arguments = json_rule(&schema).map_err(|reason| wrong(GrammarPart::Call(index), reason))?;
    let to = literal(&format!(" to=functions.{}", call.name));
    Ok(format!(
        "call_{index}: (({to} {channel} \"commentary\") | ({channel} \"commentary\" {to})) \
         (\" \"? {constrain} \"json\")? {message} call_{index}_arguments\n\
         call_{index}_arguments: {arguments}\n"
    ))
}
