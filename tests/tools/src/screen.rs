//! Progress on one screen: redrawn in place on a terminal, else a line a second.

use std::io::{IsTerminal, Write};

use crate::clock;

const COLUMNS: usize = 79;

pub struct Screen {
    terminal: bool,
    drawn: usize,
    line_at: u64,
}

/// What is shown; the trial fills it.
#[derive(Default)]
pub struct View {
    pub elapsed: f64,
    pub seconds: f64,
    pub phase: String,
    pub link: String,
    pub ring: Option<(u64, u64)>,
    pub store: Option<(u64, u64)>,
    pub inflight: Option<u64>,
    pub sent: u64,
    pub accepted: u64,
    pub arrived: u64,
    pub rss_kib: u64,
    pub log: Vec<String>,
}

impl Screen {
    pub fn new() -> Self {
        Screen { terminal: std::io::stdout().is_terminal(), drawn: 0, line_at: 0 }
    }

    pub fn draw(&mut self, view: &View) {
        let mut out = std::io::stdout().lock();
        let text = if self.terminal {
            let lines = lines(view);
            let mut text = String::new();
            if self.drawn > 0 {
                text.push_str(&format!("\x1b[{}A", self.drawn));
            }
            for line in &lines {
                text.push_str("\x1b[2K");
                text.extend(line.chars().take(COLUMNS));
                text.push('\n');
            }
            self.drawn = lines.len();
            text
        } else {
            let now = clock::now();
            if now < self.line_at {
                return;
            }
            self.line_at = now + clock::SECOND;
            line(view)
        };
        // Whoever closed stdout does not want to see it.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn lines(view: &View) -> Vec<String> {
    let (ring, ring_cap) = view.ring.unwrap_or_default();
    let (stored, stored_bytes) = view.store.unwrap_or_default();
    let behind = view.accepted.saturating_sub(view.arrived);
    let mut lines = vec![
        format!("  {:5.1} s of {:.0} s   {}", view.elapsed, view.seconds, view.phase),
        String::new(),
        format!("  link      {}", view.link),
        format!("  ring      {} {ring} of {ring_cap}", bar(ring, ring_cap)),
        format!("  store     {} {stored} messages, {}", bar(stored, behind), bytes(stored_bytes)),
        format!("  in flight {}   memory {}", number(view.inflight), bytes(view.rss_kib * 1024)),
        String::new(),
        format!("  sent      {} {}", bar(view.sent, view.sent), view.sent),
        format!("  accepted  {} {}", bar(view.accepted, view.sent), view.accepted),
        format!("  arrived   {} {}", bar(view.arrived, view.sent), view.arrived),
        format!("  accepted and on the way: {behind}"),
        String::new(),
    ];
    for index in 0..6 {
        let text = view.log.get(index).map_or("", String::as_str);
        // The time and the level are not news on a screen.
        lines.push(format!("  {}", text.find("event=").map_or(text, |at| &text[at + 6..])));
    }
    lines
}

fn line(view: &View) -> String {
    let (ring, ring_cap) = view.ring.unwrap_or_default();
    let (stored, stored_bytes) = view.store.unwrap_or_default();
    format!(
        "{:5.1} s  {:<34} ring {ring}/{ring_cap}  store {stored} ({})  sent {}  accepted {}  \
         arrived {}  link {}\n",
        view.elapsed,
        view.phase,
        bytes(stored_bytes),
        view.sent,
        view.accepted,
        view.arrived,
        view.link
    )
}

fn bar(value: u64, whole: u64) -> String {
    const CELLS: u64 = 30;
    let filled = if whole == 0 { 0 } else { (value.min(whole) * CELLS).div_ceil(whole) };
    let (full, rest) = (filled as usize, (CELLS - filled) as usize);
    format!("[{}{}]", "#".repeat(full), " ".repeat(rest))
}

fn number(value: Option<u64>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_with_their_share() {
        assert_eq!(bar(0, 10), format!("[{}]", " ".repeat(30)));
        assert_eq!(bar(20, 10), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(1, 3), format!("[{}{}]", "#".repeat(10), " ".repeat(20)));
        assert_eq!(bar(5, 0), format!("[{}]", " ".repeat(30)));
    }

    #[test]
    fn the_screen_keeps_its_height() {
        let mut view = View::default();
        let height = lines(&view).len();
        view.log = (0..9).map(|n| format!("T INFO x event=e{n}")).collect();
        assert_eq!(lines(&view).len(), height);
    }
}
