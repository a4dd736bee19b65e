//! The Query protocol: a form goes out, XML comes back.

use pacer_backend::{
    Error,
    http::{Request, encode},
};
use roxmltree::{Document, Node};

use crate::{
    C, ENDPOINT,
    fault::{Fault, refusal},
};

/// The version of the API. EC2 has had no other for years and promises compatible changes.
const VERSION: &str = "2016-11-15";
/// A page of instances stays far below, an answer with console output (64 KiB) as well.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// The parameters of a request.
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn new(action: &str) -> Self {
        Self(vec![("Action".into(), action.into()), ("Version".into(), VERSION.into())])
    }

    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }

    pub fn maybe(self, key: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// A filter, numbered from 1.
    pub fn filter(mut self, number: usize, name: &str, values: &[&str]) -> Self {
        self = self.set(format!("Filter.{number}.Name"), name);
        for (index, value) in values.iter().enumerate() {
            self = self.set(format!("Filter.{number}.Value.{}", index + 1), *value);
        }
        self
    }

    fn action(&self) -> &str {
        self.0.first().map_or("", |(_, action)| action)
    }

    fn body(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        pairs.join("&")
    }
}

/// An answer that says yes.
#[derive(Debug)]
pub struct Answer {
    action: String,
    text: String,
}

impl Answer {
    pub fn document(&self) -> Result<Document<'_>, Error> {
        Document::parse(&self.text).map_err(|_| garbage(&self.action))
    }
}

/// A page of something else may be well-formed too, and must not be taken for an empty listing.
fn is_answer(action: &str, text: &str) -> bool {
    let named = |document: &Document<'_>| {
        document.root_element().tag_name().name().strip_suffix("Response").is_some_and(|root| root == action)
    };
    Document::parse(text).is_ok_and(|document| named(&document))
}

fn garbage(action: &str) -> Error {
    Error::unavailable(format!("the answer of the endpoint `{ENDPOINT}` to `{action}` is not EC2's; is it its API?"))
}

/// The API of a region.
pub struct Ec2<'a, 'c>(pub &'a C<'c>);

impl Ec2<'_, '_> {
    pub fn ask(&self, form: Form) -> Result<Answer, Fault> {
        let action = form.action().to_owned();
        let mut request =
            Request::post(ENDPOINT, "/").header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        request.body = form.body().into_bytes();
        let response = request.send(self.0)?;
        let (status, success) = (response.status, response.is_success());
        let retry_after = response.header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let text = String::from_utf8(response.bytes(ANSWER_MAX)?).map_err(|_| garbage(&action))?;
        if success && is_answer(&action, &text) {
            return Ok(Answer { action, text });
        }
        if success {
            return Err(garbage(&action).into());
        }
        Err(refusal(&action, status, &text, retry_after))
    }
}

/// The text of a child.
pub fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    let child = node.children().find(|child| child.has_tag_name(name))?;
    Some(child.text().unwrap_or_default().trim().to_owned())
}

/// The items of a list that is a child.
pub fn items<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Vec<Node<'a, 'i>> {
    let list = node.children().find(|child| child.has_tag_name(name));
    list.map(|list| list.children().filter(|item| item.has_tag_name("item")).collect()).unwrap_or_default()
}
