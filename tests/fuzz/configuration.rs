//! Any text at all as a configuration: it is refused with lines that exist, or it is one with
//! which a gateway starts.

use spillway::config::load;
use spillway::gateway::Gateway;
use spillway::vocab::Instant;

/// Gateways that plan more than this are not made: it would only be slow.
const PLAN_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub fn check_configuration(text: &str) {
    // A file the configuration names holds the first line of the configuration, or what the
    // comments in it hold: users or rules.
    let first = text.lines().next().unwrap_or_default().as_bytes().to_vec();
    let comments: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let mut read_file = |path: &str| match path.len() % 3 {
        0 => Err("not there".to_owned()),
        1 => Ok(first.clone()),
        _ => Ok(comments.join("\n").into_bytes()),
    };
    let line_count = u32::try_from(text.lines().count() + 1).expect("short texts");
    match load("fuzz.conf", text, &mut read_file, "node") {
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal says why");
            for error in &errors {
                assert!(error.line <= line_count, "{error}");
                assert!(error.to_string().starts_with("fuzz.conf:"), "{error}");
                assert!(!error.to_string().contains(['\n', '\r', '\0']), "{error:?}");
            }
        }
        Ok((config, warnings)) => {
            assert!(warnings.iter().all(|warning| warning.line <= line_count), "{warnings:?}");
            let plan = Gateway::plan(&config, 1000);
            let bytes = plan.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
            assert!(bytes > 0);
            if bytes <= PLAN_BYTES_MAX {
                let mut gateway = Gateway::new(config, 1, 64, Instant::START);
                gateway.expire(Instant::START);
                while gateway.poll_action().is_some() {}
            }
        }
    }
}
