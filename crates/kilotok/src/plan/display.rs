//! A plan as text for a terminal.

use std::fmt;

use super::{Choice, Constant, Origin, Plan, Prediction};

fn size(bytes: f64) -> String {
    match bytes {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.2} kB", b / 1e3),
        b if b < 1e9 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn prediction(f: &mut fmt::Formatter<'_>, name: &str, p: &Prediction) -> fmt::Result {
    let experts = p.experts.map_or_else(String::new, |n| format!("  {n:.1} experts a layer"));
    writeln!(
        f,
        "  {name:<22} {:>9} {:>9} {:>11} {:>9}{experts}",
        size(p.bytes),
        cell(Some(p.times.floor_ms), 3),
        cell(p.times.persistent_ms, 3),
        cell(p.times.graph_ms, 3),
    )
}

fn choice(f: &mut fmt::Formatter<'_>, choice: &Choice, is_told: bool) -> fmt::Result {
    let mode = match choice.tau {
        Some(tau) if is_told => format!("drafts, tau {tau}"),
        Some(tau) => format!("drafts, if tau {tau}"),
        None => choice.mode.to_owned(),
    };
    let dollars = choice.dollars.map_or_else(String::new, |d| format!("{d:>10.2}"));
    writeln!(
        f,
        "  {mode:<20} {:<10} {:>5} {:>11.1} {:>11.1} {:>13.1}{dollars}",
        choice.model,
        choice.sequences,
        choice.tokens_per_s,
        choice.tokens_per_s * choice.sequences as f64,
        choice.gpu_seconds
    )
}

impl Plan {
    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.memory;
        writeln!(f, "\n  memory of each GPU")?;
        for component in &m.components {
            let name = component.name;
            let format = self
                .formats
                .iter()
                .find(|(kind, _)| *kind == name || (*kind == "embedding" && name == "head"));
            let format = format.map_or("", |(_, format)| format);
            writeln!(f, "    {name:<14} {format:<6} {:>12}", size(component.bytes as f64))?;
        }
        writeln!(f, "    {:<21} {:>12}", "needed", size(m.needed as f64))?;
        writeln!(f, "    {:<21} {:>12}", "available", size(m.available as f64))?;
        let Some(left) = m.left else {
            let missing = m.needed.saturating_sub(m.available);
            return writeln!(f, "    {:<21} {:>12}", "missing", size(missing as f64));
        };
        writeln!(f, "    {:<21} {:>12}", "left", size(left as f64))?;
        writeln!(
            f,
            "    {:<21} {:>12}  ({} fit)",
            "a further sequence",
            size(m.per_sequence as f64),
            m.sequences
        )
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (floor, persistent) = ("floor", "persistent");
        writeln!(
            f,
            "\n  {:<22} {:>9} {floor:>9} {persistent:>11} {:>9}",
            "milliseconds", "bytes", "graph"
        )?;
        prediction(f, "plain step", &self.plain)?;
        let Some(round) = &self.round else { return Ok(()) };
        prediction(f, &format!("draft of {} rows", round.block), &round.draft)?;
        prediction(f, "verify and accept", &round.verify)?;
        prediction(f, "commit", &round.commit)?;
        let bytes = round.draft.bytes + round.verify.bytes + round.commit.bytes;
        writeln!(
            f,
            "  {:<22} {:>9} {:>9} {:>11} {:>9}",
            "round",
            size(bytes),
            cell(Some(round.times.floor_ms), 3),
            cell(round.times.persistent_ms, 3),
            cell(round.times.graph_ms, 3)
        )?;
        let even = &round.break_even;
        writeln!(
            f,
            "  {:<22} {:>9} {:>9} {:>11} {:>9}",
            "break-even tau",
            "",
            cell(Some(even.floor), 2),
            cell(even.persistent, 2),
            cell(even.graph, 2)
        )
    }

    fn money(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let economy = &self.economy;
        let has_price = economy.choices.iter().any(|choice| choice.dollars.is_some());
        let dollars = if has_price { "  dollars/M" } else { "" };
        writeln!(
            f,
            "\n  {:<20} {:<10} {:>5} {:>11} {:>11} {:>13}{dollars}",
            "", "model", "seqs", "tok/s each", "tok/s all", "GPU-s/M tok"
        )?;
        let is_told = economy.comparisons.iter().any(|c| c.latency == "drafts");
        for one in economy.choices.iter().filter(|choice| choice.model != "graph") {
            choice(f, one, is_told)?;
        }
        let batch = &economy.floor_batch;
        write!(f, "  throughput: floor with {} sequences ({})", batch.sequences, batch.reason)?;
        if self.gpu.has_kernels {
            let batch = &economy.today_batch;
            write!(f, "; today with {} ({})", batch.sequences, batch.reason)?;
        }
        writeln!(f)?;
        for c in economy.comparisons.iter().filter(|c| c.model != "graph") {
            writeln!(
                f,
                "  {}: {} gives one user {:.2} times the speed of throughput mode, at {:.2} times \
                 the cost per token",
                c.model, c.latency, c.speed, c.cost
            )?;
        }
        Ok(())
    }

    /// The constants behind today, where there is one.
    fn provenance(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.gpu.has_kernels {
            return Ok(());
        }
        let fitted = self.constants.iter().filter(|c| c.origin == Origin::Fitted).count();
        writeln!(
            f,
            "  persistent, graph: this engine today, by {} constants that belong to no model, {} \
             measured and {fitted} fitted (docs/plan.md has the points and the residuals):",
            self.constants.len(),
            self.constants.len() - fitted
        )?;
        self.constants.iter().try_for_each(|c| {
            let Constant { name, value, unit, source, date, .. } = c;
            writeln!(f, "    {name:<55} {value:>8} {unit:<5} {source} {date}")
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = if self.gpu.is_measured { "" } else { " (not measured)" };
        let verdict = match (self.fits, self.fits_from_tp) {
            (true, _) => "fits".to_owned(),
            (false, Some(ranks)) => format!("DOES NOT FIT; it does from --tp {ranks} on"),
            (false, None) => "DOES NOT FIT".to_owned(),
        };
        writeln!(
            f,
            "{} ({}) on {} x {}{label}, context {}: {verdict}",
            self.config,
            self.family,
            self.tp,
            self.gpu.name.to_uppercase(),
            self.context
        )?;
        writeln!(
            f,
            "  read rate {:.2} TB/s of {:.2} on the data sheet",
            self.gpu.read_rate() / 1e12,
            self.gpu.vendor_bytes_per_s / 1e12
        )?;
        self.memory(f)?;
        self.times(f)?;
        self.money(f)?;
        writeln!(f, "\n  floor: bytes over the read rate, and hops; no engine is there yet")?;
        self.provenance(f)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))
    }
}
