//! The Query protocol: a form goes out, XML comes back.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    thread,
    time::Duration,
};

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
/// Before a request that was one too many is made again; then twice as long, up to [`LONGEST_WAIT`]. EC2 gives back two
/// launches a second, and ten or more of what only asks.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// The parameters of a request.
#[derive(Clone)]
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

    /// Another filter.
    pub fn filter(mut self, name: &str, values: &[&str]) -> Self {
        let number = self.0.iter().filter(|(key, _)| key.starts_with("Filter.") && key.ends_with(".Name")).count() + 1;
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

/// A page of something else may be well-formed too, and must not be taken for an empty listing.
fn is_answer(action: &str, root: Node<'_, '_>) -> bool {
    root.tag_name().name().strip_suffix("Response").is_some_and(|name| name == action)
}

fn garbage(action: &str) -> Error {
    Error::unavailable(format!("the answer of the endpoint `{ENDPOINT}` to `{action}` is not EC2's; is it its API?"))
}

/// The API of a region.
pub struct Ec2<'a, 'c>(pub &'a C<'c>);

impl Ec2<'_, '_> {
    /// Asks, and reads what the answer says.
    pub fn ask<T>(&self, form: &Form, read: impl FnOnce(Node<'_, '_>) -> T) -> Result<T, Fault> {
        let action = form.action();
        let mut request =
            Request::post(ENDPOINT, "/").header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        request.body = form.body().into_bytes();
        let response = request.send(self.0)?;
        let (status, success) = (response.status, response.is_success());
        let retry_after = response.header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let text = String::from_utf8(response.bytes(ANSWER_MAX)?).map_err(|_| garbage(action))?;
        let document = Document::parse(&text).ok();
        match document.as_ref().map(Document::root_element) {
            _ if !success => Err(refusal(action, status, document.as_ref(), retry_after.map(Duration::from_secs))),
            Some(root) if is_answer(action, root) => Ok(read(root)),
            Some(_) | None => Err(garbage(action).into()),
        }
    }

    /// The same, again and again while EC2 says that there are too many requests and the call has time. What is asked
    /// stays the same to the letter, its client token too, so that none of it is done twice.
    pub fn ask_patiently<T>(&self, form: &Form, read: impl Fn(Node<'_, '_>) -> T) -> Result<T, Fault> {
        let mut wait = FIRST_WAIT;
        loop {
            let fault = match self.ask(form, &read) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let Some(told) = fault.throttled() else { return Err(fault) };
            // Half of it by chance: many ask at once, and must not come back at once.
            let wait_now = told.unwrap_or_else(|| wait / 2 + (wait / 2).mul_f64(chance()));
            if wait_now >= self.0.remaining() / 2 {
                return Err(fault);
            }
            thread::sleep(wait_now);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Every page of a listing; `read` also sees where the pages end.
    pub fn ask_all<T>(&self, form: &Form, read: impl Fn(Node<'_, '_>) -> Vec<T>) -> Result<Vec<T>, Fault> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        loop {
            let page = form.clone().maybe("NextToken", next);
            let (found, more) = self.ask(&page, |root| (read(root), next_token(root)))?;
            all.extend(found);
            next = more;
            if next.is_none() {
                return Ok(all);
            }
        }
    }
}

/// Any number from 0 to 1; hashers are seeded by chance.
fn chance() -> f64 {
    let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

/// What to ask for the page that follows.
pub fn next_token(root: Node<'_, '_>) -> Option<String> {
    text(root, "nextToken").filter(|token| !token.is_empty())
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
