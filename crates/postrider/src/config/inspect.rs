//! Holds what the files say against the schema of the configuration's types, so that every unknown key, wrong type and
//! malformed value is found in one reading, each at its place.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::problem::Problem;
use super::tree::{Entry, Node, Value, join_path};
use super::units;

/// Compares the whole tree; an empty list means that it will deserialise.
pub fn inspect(root: &Node, schema: &Json) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(root, schema, "", &mut problems);
    problems
}

fn walk(node: &Node, schema: &Json, path: &str, problems: &mut Vec<Problem>) {
    let Some(schema) = choose(&node.value, schema) else {
        let message = format!("{} takes {}", named(path), expected(schema));
        problems.push(Problem::at(&node.place, message, format!("this is {}", kind_of(&node.value))));
        return;
    };
    match &node.value {
        Value::Table(table) => walk_table(node, table, schema, path, problems),
        Value::List(items) => {
            if items.is_empty() && schema["minItems"].as_u64() == Some(1) {
                problems.push(Problem::at(&node.place, format!("{} must not be empty", named(path)), "nothing in it"));
            }
            for (at, item) in items.iter().enumerate() {
                walk(item, &schema["items"], &format!("{path}[{at}]"), problems);
            }
        }
        Value::Text(text) => problems.extend(check_text(node, text, schema, path)),
        Value::Number(number) => problems.extend(check_number(node, *number, schema, path)),
        Value::Boolean(_) | Value::Foreign(_) => {}
    }
}

fn walk_table(node: &Node, table: &BTreeMap<String, Entry>, schema: &Json, path: &str, problems: &mut Vec<Problem>) {
    let none = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    for (key, entry) in table {
        match properties.get(key) {
            Some(inner) => walk(&entry.node, inner, &join_path(path, key), problems),
            None => problems.push(unknown(key, entry, path, properties)),
        }
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        if !table.contains_key(required) {
            let inner = &properties[required];
            let problem = if path.is_empty() {
                Problem::general(format!("`{required}` is missing"))
            } else {
                Problem::at(&node.place, format!("`{}` is missing", join_path(path, required)), "must be set here")
            };
            problems.push(problem.help(format!("{required} = {}   # {}", example(inner), expected(inner))));
        }
    }
}

fn unknown(key: &str, entry: &Entry, path: &str, properties: &serde_json::Map<String, Json>) -> Problem {
    let message = format!("there is no key `{}`", join_path(path, key));
    let problem = Problem::at(&entry.key, message, "unknown key");
    let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
    match similar(key, &keys) {
        Some(close) => problem.help(format!("did you mean `{close}`?")),
        None => problem.help(format!("keys here are: {}", keys.join(", "))),
    }
}

/// The candidate that a slip of the finger may have turned into `word`.
pub fn similar<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let plain = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&plain, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.82)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

fn check_text(node: &Node, text: &str, schema: &Json, path: &str) -> Option<Problem> {
    let words = words(schema);
    if !words.is_empty() && !words.contains(&text) {
        let problem = Problem::at(&node.place, format!("{} takes {}", named(path), expected(schema)), "none of them");
        return Some(match similar(text, &words) {
            Some(close) => problem.help(format!("did you mean \"{close}\"?")),
            None => problem,
        });
    }
    let wrong = units::check(schema["format"].as_str()?, text).err()?;
    Some(Problem::at(&node.place, format!("{} takes {}", named(path), expected(schema)), wrong))
}

fn check_number(node: &Node, number: i64, schema: &Json, path: &str) -> Option<Problem> {
    let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
    let most = match schema["format"].as_str() {
        Some("uint32") => i64::from(u32::MAX),
        _ => i64::MAX,
    };
    let most = schema["maximum"].as_i64().unwrap_or(most);
    if (least..=most).contains(&number) {
        return None;
    }
    let label = if number < least { format!("at least {least}") } else { format!("at most {most}") };
    Some(Problem::at(&node.place, format!("{} is out of range", named(path)), label))
}

/// The alternative of the schema that is of the value's kind.
fn choose<'a>(value: &Value, schema: &'a Json) -> Option<&'a Json> {
    match schema["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().find_map(|alternative| choose(value, alternative)),
        None => kinds(schema).contains(&json_kind(value)).then_some(schema),
    }
}

/// The JSON types that the schema allows; `null` only says that a key may be left out.
fn kinds(schema: &Json) -> Vec<&str> {
    match &schema["type"] {
        Json::String(kind) => vec![kind],
        Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).filter(|kind| *kind != "null").collect(),
        _ if schema["oneOf"].is_array() => vec!["string"],
        _ => Vec::new(),
    }
}

fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "string",
        Value::Number(_) => "integer",
        Value::Boolean(_) => "boolean",
        Value::List(_) => "array",
        Value::Table(_) => "object",
        Value::Foreign(_) => "foreign",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a string",
        Value::Number(_) => "a number",
        Value::Boolean(_) => "a truth value",
        Value::List(_) => "a list",
        Value::Table(_) => "a table",
        Value::Foreign(name) => name,
    }
}

/// The words of an enumeration; empty for anything else.
pub fn words(schema: &Json) -> Vec<&str> {
    let constants = schema["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
    let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
    constants.chain(listed).collect()
}

/// What a schema takes, in words.
pub fn expected(schema: &Json) -> String {
    if let Some(alternatives) = schema["anyOf"].as_array() {
        let mut real = alternatives.iter().filter(|one| one["type"] != "null");
        let first = real.next().unwrap_or(schema);
        return match real.next().map(|second| kinds(second).first() == Some(&"object")) {
            None => expected(first),
            Some(true) => format!("{}, or a table", expected(first)),
            Some(false) => format!("one or several: {}", expected(first)),
        };
    }
    let words = words(schema);
    if !words.is_empty() {
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        return match quoted.split_last() {
            Some((last, head)) if !head.is_empty() => format!("{} or {last}", head.join(", ")),
            _ => quoted.concat(),
        };
    }
    match kinds(schema).first() {
        Some(&"string") => schema["title"].as_str().unwrap_or("a string").to_owned(),
        Some(&"integer") => "a whole number".to_owned(),
        Some(&"boolean") => "true or false".to_owned(),
        Some(&"array") => match expected(&schema["items"]).as_str() {
            "a table" => "tables".to_owned(),
            item => format!("a list, each {item}"),
        },
        _ => "a table".to_owned(),
    }
}

/// A value that would do, as TOML.
fn example(schema: &Json) -> String {
    match schema["examples"].get(0) {
        Some(value) => value.to_string(),
        None if schema["anyOf"].is_array() => example(&schema["anyOf"][0]),
        None => match kinds(schema).first() {
            Some(&"integer") => "1".to_owned(),
            Some(&"array") => format!("[{}]", example(&schema["items"])),
            _ => "\"…\"".to_owned(),
        },
    }
}

fn named(path: &str) -> String {
    format!("`{path}`")
}
