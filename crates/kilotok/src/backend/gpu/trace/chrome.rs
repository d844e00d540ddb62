//! The timeline as Chrome's trace events, which Perfetto shows too.

use std::io::{self, Write};

use super::{Trace, TracedOp};

impl Trace {
    /// Writes the timeline: a track for every block with its ops, within them what they waited for first, and the
    /// waits at the barrier; and the rate at which each op was read. Times are microseconds.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "{{\"displayTimeUnit\": \"ns\", \"traceEvents\": [")?;
        let device = serde_json::Value::from(self.device.as_str());
        write!(
            out,
            "{{\"ph\": \"M\", \"pid\": 0, \"name\": \"process_name\", \"args\": {{\"name\": {device}}}}}"
        )?;
        for (block, span) in self.ops.first().map_or(&[][..], |op| &op.blocks).iter().enumerate() {
            write!(
                out,
                ",\n{{\"ph\": \"M\", \"pid\": 0, \"tid\": {block}, \"name\": \"thread_name\", \"args\": \
                 {{\"name\": \"SM {} (block {block})\"}}}}",
                span.sm
            )?;
        }
        for op in &self.ops {
            write_op(op, &mut out)?;
        }
        writeln!(out, "\n]}}")
    }
}

fn write_op(op: &TracedOp, out: &mut impl Write) -> io::Result<()> {
    let (begun, ended) = (op.first_entry(), op.last_arrival());
    let rate = if ended > begun { op.bytes / (ended - begun) / 1e6 } else { 0.0 };
    write!(
        out,
        ",\n{{\"ph\": \"C\", \"pid\": 0, \"name\": \"read\", \"ts\": {begun:.3}, \"args\": {{\"TB/s\": {rate:.3}}}}}"
    )?;
    // A label is the name of a region: letters, digits, dots.
    let label = serde_json::Value::from(op.label.as_str());
    let experts = op.experts.map_or(String::new(), |experts| format!(", \"experts\": {experts}"));
    let args = format!(
        "{{\"reads\": {label}, \"op\": {}, \"command\": {}, \"rows\": {}{experts}, \"bytes\": {:.0}}}",
        op.op, op.command, op.rows, op.bytes
    );
    for (block, span) in op.blocks.iter().enumerate() {
        let mut event = |name: &str, from: f64, to: f64, args: &str| {
            let length = (to - from).max(0.0);
            write!(
                out,
                ",\n{{\"ph\": \"X\", \"pid\": 0, \"tid\": {block}, \"name\": \"{name}\", \"ts\": {from:.3}, \
                 \"dur\": {length:.3}{args}}}"
            )
        };
        event(op.kind, span.entered, span.arrived, &format!(", \"args\": {args}"))?;
        if let Some(routed) = span.routed {
            event("select experts", span.entered, routed, "")?;
        }
        if let Some(weights) = span.weights {
            event("first weights", span.routed.unwrap_or(span.entered), weights, "")?;
        }
        event("wait", span.arrived, span.passed, "")?;
    }
    Ok(())
}
