// SPDX-License-Identifier: GPL-2.0
//! Reads what sevsim says on the debug console: events, and the report at the end.
//!
//! Lines: `sevsim: event WORD key=value ...`, `sevsim: report NAME key=value ...`; everything else
//! is for people. A value that holds blanks is put in double quotes or is the last of its line
//! (`text=`).

use std::collections::BTreeMap;

use serde::Serialize;

/// One `event` or `report` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Word(s) before the first `key=value`.
    pub name: String,
    /// The pairs, in the order of the line.
    pub fields: Vec<(String, String)>,
}

impl Record {
    fn parse(text: &str) -> Self {
        let mut name = Vec::new();
        let mut fields = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (word, _) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let Some((key, _)) = word.split_once('=') else {
                name.push(word);
                rest = rest[word.len()..].trim_start();
                continue;
            };
            let value = &rest[key.len() + 1..];
            let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
                quoted.split_once('"').unwrap_or((quoted, ""))
            } else if key == "text" {
                (value, "")
            } else {
                value.split_once(char::is_whitespace).unwrap_or((value, ""))
            };
            fields.push((key.to_string(), value.to_string()));
            rest = after.trim_start();
        }
        Self {
            name: name.join(" "),
            fields,
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// The value of `key` as a number, decimal or with `0x`.
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        }
    }

    /// The pairs as text, in the order of the line.
    pub fn pairs(&self) -> String {
        let pairs: Vec<_> = self
            .fields
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        pairs.join(" ")
    }
}

/// Everything sevsim told.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SimLog {
    /// Events in order.
    pub events: Vec<Record>,
    /// Report lines in order.
    pub report: Vec<Record>,
}

impl SimLog {
    /// Takes one line of the debug console.
    pub fn line(&mut self, line: &str) {
        let Some(text) = line.trim_end().strip_prefix("sevsim: ") else {
            return;
        };
        if let Some(event) = text.strip_prefix("event ") {
            self.events.push(Record::parse(event));
        } else if let Some(report) = text.strip_prefix("report ") {
            self.report.push(Record::parse(report));
        }
    }

    /// The first event called `name`.
    pub fn event(&self, name: &str) -> Option<&Record> {
        self.events.iter().find(|event| event.name == name)
    }

    /// The first event after which the guest does not run any more.
    pub fn last_act(&self) -> Option<&Record> {
        const FINAL: [&str; 7] = [
            "poweroff",
            "reset",
            "terminate",
            "unsupported-event",
            "triple-fault",
            "shutdown",
            "fatal",
        ];
        self.events
            .iter()
            .find(|event| FINAL.contains(&event.name.as_str()))
    }

    /// The report's numbers as one tree: name of the line -> key -> value.
    pub fn report_tree(&self) -> BTreeMap<String, Vec<BTreeMap<String, serde_json::Value>>> {
        let mut tree: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for record in &self.report {
            let row = record
                .fields
                .iter()
                .map(|(key, text)| {
                    let value = match record.number(key) {
                        Some(number) => number.into(),
                        None => text.clone().into(),
                    };
                    (key.clone(), value)
                })
                .collect();
            tree.entry(record.name.clone()).or_default().push(row);
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        let mut log = SimLog::default();
        log.line("sevsim: 2 vCPUs, 1024 MiB");
        log.line("sevsim: event start version=0.1");
        log.line("sevsim: event terminate set=1 code=0x5 vcpu=0\r");
        log.line("not ours: event poweroff");
        assert_eq!(log.events.len(), 2);
        let event = log.last_act().unwrap();
        assert_eq!(event.name, "terminate");
        assert_eq!(event.number("set"), Some(1));
        assert_eq!(event.number("code"), Some(5));
        assert_eq!(event.number("vcpu"), Some(0));
        assert_eq!(event.number("none"), None);
    }

    #[test]
    fn text_and_quotes_keep_blanks() {
        let mut log = SimLog::default();
        log.line("sevsim: event fatal vcpu=1 text=guest memory too small: 12 MiB");
        log.line("sevsim: report exits kind=\"cr3 write\" count=17");
        assert_eq!(
            log.events[0].get("text"),
            Some("guest memory too small: 12 MiB")
        );
        assert_eq!(log.report[0].get("kind"), Some("cr3 write"));
        assert_eq!(log.report[0].number("count"), Some(17));
        assert_eq!(log.report_tree()["exits"][0]["count"], 17);
    }

    #[test]
    fn no_final_event_while_the_guest_runs() {
        let mut log = SimLog::default();
        log.line("sevsim: event start");
        log.line("sevsim: event ready");
        assert!(log.last_act().is_none());
        assert!(log.event("ready").is_some());
    }
}
