//! The reference of the configuration as Markdown, made from the schema of the types.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::inspect::{expected, words};

const HEAD: &str = "\
# Configuration

This page is made by `postrider reference` from the program's own types.

A configuration is one TOML file, `/etc/postrider/postrider.toml` unless `--config` names another. `postrider check`
reads it and tells every mistake with its line; `postrider schema` prints a JSON schema for editors. A running server
reads it anew on SIGHUP: all of the new file takes effect, or none. What a reload cannot change (`user`, `group`,
`store`, `dns`, `tls.roots`, `acme.listen`, `mta_sts.listen`, `mta_sts.follow`, `tls_reports` but for `address` and `keep`,
and `log.format`) needs a restart, and the log says so.

The smallest useful configuration:

```toml
hostname = \"mx.example.org\"
domains = [\"example.org\"]
networks = [\"127.0.0.0/8\", \"::1/128\", \"192.0.2.0/24\"]

[[route]]
domains = \"example.org\"
to = \"lmtp:/run/dovecot/lmtp\"
```

How values are written:

| kind | written |
|---|---|
| duration | a number and a unit: `\"250ms\"`, `\"90s\"`, `\"5m\"`, `\"1h30m\"`, `\"5d\"`, `\"2w\"` |
| size | a number and a unit: `\"512B\"`, `\"64KiB\"`, `\"50MiB\"`, `\"1GB\"` |
| network | `\"192.0.2.0/24\"`, `\"2001:db8::/32\"`, or one address |
| domain pattern | `\"example.org\"`, `\"*.example.org\"` (everything below it, not itself), `\"*\"` |
| one or several | `\"a\"` says the same as `[\"a\"]` |

A file may name others: `include = [\"conf.d/*.toml\"]`, relative to itself. Tables are joined, lists are put one behind
the other in the order of reading, and a value that is set twice is an error.
";

/// The whole page.
pub fn reference() -> String {
    let schema = super::plain_schema();
    let mut page = HEAD.to_owned();
    page.push_str("\n## Top level\n\n");
    let mut sections = Vec::new();
    table(&schema, "", &mut page, &mut sections);
    let mut next = 0;
    while next < sections.len() {
        let (title, section) = sections[next].clone();
        next += 1;
        let _ = write!(page, "\n## `{title}`\n\n{}\n\n", prose(&section));
        table(&section, title.trim_matches(['[', ']']), &mut page, &mut sections);
    }
    page
}

/// The keys of one table; tables inside it become sections of their own.
fn table(schema: &Json, path: &str, page: &mut String, sections: &mut Vec<(String, Json)>) {
    page.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    for (key, inner) in properties {
        let full = super::tree::join_path(path, key);
        if inner["properties"].is_object() {
            sections.push((format!("[{full}]"), inner.clone()));
            continue;
        }
        if inner["items"]["properties"].is_object() {
            let mut section = inner["items"].clone();
            section["description"] = inner["description"].clone();
            sections.push((format!("[[{full}]]"), section));
            continue;
        }
        let default = if required.contains(&key.as_str()) { "must be set".to_owned() } else { default(inner) };
        let _ = writeln!(page, "| `{key}` | {} | {default} | {} |", cell(&takes(inner)), cell(&prose(inner)));
    }
}

fn takes(schema: &Json) -> String {
    let words = words(schema);
    if !words.is_empty() {
        return words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    }
    let range = match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        (Some(0) | None, None) => String::new(),
        (Some(least), None) => format!(", at least {least}"),
        (least, Some(most)) => format!(", {} to {most}", least.unwrap_or(0)),
    };
    format!("{}{range}", expected(schema))
}

fn default(schema: &Json) -> String {
    match &schema["default"] {
        Json::Null => "–".to_owned(),
        Json::Array(items) if items.is_empty() => "none".to_owned(),
        value => format!("`{value}`").replace("\",\"", "\", \""),
    }
}

/// The description, with what each word of an enumeration means.
fn prose(schema: &Json) -> String {
    let mut text = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        if let (Some(word), Some(meaning)) = (one["const"].as_str(), one["description"].as_str()) {
            let _ = write!(text, " `{word}`: {}", meaning.replace('\n', " "));
        }
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
