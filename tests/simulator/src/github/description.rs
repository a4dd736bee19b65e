//! GitHub's published description of its API, and whether a request or an answer fits it.
//!
//! OpenAPI 3.0 has its own dialect of JSON Schema: `nullable` is translated, the rest is the same.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

/// Statuses that any operation may answer; GitHub does not describe them with each.
const EVERYWHERE: [u16; 5] = [400, 401, 403, 404, 429];

pub struct Description {
    document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// One operation: its method and its path as described.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    pub method: String,
    pub path: String,
}

pub static GITHUB: LazyLock<Description> = LazyLock::new(|| {
    let mut document =
        serde_json::from_str(include_str!("../../openapi/github-excerpt.json")).expect("the excerpt is JSON");
    translate(&mut document);
    Description { document, validators: Mutex::default() }
});

/// `nullable: true` becomes what JSON Schema says instead.
fn translate(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(translate);
            if object.remove("nullable") == Some(Value::Bool(true)) {
                let described = std::mem::take(object);
                object.insert("anyOf".to_owned(), json!([{ "type": "null" }, described]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(translate),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Description {
    pub fn operations(&self) -> BTreeSet<Operation> {
        let paths = self.document["paths"].as_object().expect("paths");
        paths
            .iter()
            .flat_map(|(path, methods)| methods.as_object().expect("methods").keys().map(move |method| (path, method)))
            .map(|(path, method)| Operation { method: method.clone(), path: path.clone() })
            .collect()
    }

    /// Statuses that are described for an operation.
    pub fn statuses(&self, operation: &Operation) -> BTreeSet<u16> {
        let responses = &self.document["paths"][&operation.path][&operation.method]["responses"];
        responses.as_object().expect("responses").keys().map(|status| status.parse().expect("a status")).collect()
    }

    /// What a request is described as: words without braces come before those that stand for anything.
    pub fn operation(&self, method: &str, path: &str) -> Option<Operation> {
        let given: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
        let fits = |described: &str| {
            let described: Vec<&str> = described.split('/').collect();
            described.len() == given.len()
                && described.iter().zip(&given).all(|(word, given)| word.starts_with('{') || word == given)
        };
        let method = method.to_lowercase();
        let found = self.operations().into_iter().filter(|known| known.method == method && fits(&known.path));
        found.min_by_key(|known| known.path.matches('{').count())
    }

    /// What is wrong with a request's query, as described.
    pub fn faults_of_query<'a>(
        &self,
        operation: &Operation,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<String> {
        let described = &self.document["paths"][&operation.path][&operation.method]["parameters"];
        let parameters: Vec<&Value> = described
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|parameter| match parameter["$ref"].as_str() {
                Some(shared) => self.document.pointer(shared.trim_start_matches('#')),
                None => Some(parameter),
            })
            .filter(|parameter| parameter["in"] == "query")
            .collect();
        let mut faults = Vec::new();
        for (name, value) in pairs {
            let Some(parameter) = parameters.iter().find(|parameter| parameter["name"] == name) else {
                faults.push(format!("the parameter `{name}` is not described"));
                continue;
            };
            let schema = &parameter["schema"];
            let fits = match schema["type"].as_str() {
                Some("integer") => value.parse::<i128>().is_ok(),
                Some("boolean") => value.parse::<bool>().is_ok(),
                _ => schema["enum"].as_array().is_none_or(|words| words.iter().any(|word| word == value)),
            };
            if !fits {
                faults.push(format!("the parameter `{name}` may not be `{value}`"));
            }
        }
        faults
    }

    /// What is wrong with a request's body, as described.
    pub fn faults_of_request(&self, operation: &Operation, body: Option<&Value>) -> Vec<String> {
        let described = &self.document["paths"][&operation.path][&operation.method]["requestBody"];
        match (described, body) {
            (Value::Null, _) => Vec::new(),
            (described, None) if described["required"] != true => Vec::new(),
            (_, None) => vec!["the body is missing".to_owned()],
            (_, Some(body)) => {
                let at = format!("/paths/{}/{}/requestBody", escaped(&operation.path), operation.method);
                self.faults(&format!("{at}/content/application~1json/schema"), body)
            }
        }
    }

    /// What is wrong with an answer, as described.
    pub fn faults_of_answer(&self, operation: &Operation, status: u16, body: Option<&Value>) -> Vec<String> {
        let described = &self.document["paths"][&operation.path][&operation.method]["responses"][status.to_string()];
        let pointer = match (described, described["$ref"].as_str()) {
            (Value::Null, _) if EVERYWHERE.contains(&status) => "/components/schemas/basic-error".to_owned(),
            (Value::Null, _) => return vec![format!("the status {status} is not described")],
            (_, Some(shared)) => format!("{}/content/application~1json/schema", shared.trim_start_matches('#')),
            (_, None) => format!(
                "/paths/{}/{}/responses/{status}/content/application~1json/schema",
                escaped(&operation.path),
                operation.method
            ),
        };
        match (self.document.pointer(&pointer), body) {
            (None, None) => Vec::new(),
            (None, Some(_)) => vec![format!("a body with the status {status} is not described")],
            (Some(_), None) => vec![format!("the body that goes with the status {status} is missing")],
            (Some(_), Some(body)) => self.faults(&pointer, body),
        }
    }

    fn faults(&self, pointer: &str, body: &Value) -> Vec<String> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = validators.entry(pointer.to_owned()).or_insert_with(|| {
            let schema = json!({
                "allOf": [{ "$ref": format!("#{}", pointer.replace('{', "%7B").replace('}', "%7D")) }],
                "paths": self.document["paths"], "components": self.document["components"],
            });
            let options = jsonschema::options().with_draft(Draft::Draft7).should_validate_formats(true);
            Arc::new(options.build(&schema).expect("the excerpt holds JSON Schemas"))
        });
        let validator = Arc::clone(validator);
        drop(validators);
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }
}

fn escaped(path: &str) -> String {
    path.replace('~', "~0").replace('/', "~1")
}
