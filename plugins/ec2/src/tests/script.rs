//! A script of EC2's answers, each to an action with parameters that it must have.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io::Cursor,
    time::Duration,
};

use pacer_backend::{
    Error,
    http::{Request, Response, Transport, decode},
};

pub const NONE: &str = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
const NO_TEMPLATES: &str = "<DescribeLaunchTemplatesResponse><launchTemplates/></DescribeLaunchTemplatesResponse>";
const NO_VOLUMES: &str = "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>";

/// The parameters of a request, decoded.
pub type Sent = BTreeMap<String, String>;

/// What a request says. No parameter may be there twice: EC2 refuses that.
pub fn parameters(request: &Request) -> Sent {
    assert_eq!((request.method, request.path.as_str()), ("POST", "/"));
    assert!(request.headers.iter().all(|(name, _)| name != "authorization"), "the signature is the host's");
    let body = String::from_utf8(request.body.clone()).unwrap();
    let mut all = Sent::new();
    for pair in body.split('&') {
        let (key, value) = pair.split_once('=').unwrap();
        let (key, value) = (decode(key).unwrap(), decode(value).unwrap());
        assert_eq!(all.insert(key, value), None, "{pair} is there twice");
    }
    assert_eq!(all["Version"], "2016-11-15");
    all
}

/// Answers in order, and panics at a request that is not the one expected.
#[derive(Default)]
pub struct Script {
    steps: RefCell<VecDeque<Step>>,
    sent: RefCell<Vec<Sent>>,
}

struct Step {
    action: &'static str,
    has: Vec<String>,
    status: u16,
    retry_after: Option<&'static str>,
    body: String,
}

impl Script {
    /// Expects an action with these parameters, `KEY=VALUE`.
    pub fn on(self, action: &'static str, has: &[&str], status: u16, body: impl Into<String>) -> Self {
        let has = has.iter().map(|one| (*one).to_owned()).collect();
        let step = Step { action, has, status, retry_after: None, body: body.into() };
        self.steps.borrow_mut().push_back(step);
        self
    }

    /// The last answer says when to come back.
    pub fn retry_after(self, seconds: &'static str) -> Self {
        self.steps.borrow_mut().back_mut().unwrap().retry_after = Some(seconds);
        self
    }

    /// There is no instance of the runner yet.
    pub fn no_instance(self) -> Self {
        self.on("DescribeInstances", &["Filter.1.Name=tag:pacer:owner", "Filter.2.Name=tag:pacer:name"], 200, NONE)
    }

    /// Nothing outlived its instance.
    pub fn no_leftovers(self) -> Self {
        let tag = "Filter.1.Name=tag:pacer:owner";
        self.on("DescribeLaunchTemplates", &[tag], 200, NO_TEMPLATES).on("DescribeVolumes", &[tag], 200, NO_VOLUMES)
    }

    pub fn sent(&self, index: usize) -> Sent {
        self.sent.borrow()[index].clone()
    }

    pub fn done(&self) {
        let left: Vec<_> = self.steps.borrow().iter().map(|step| step.action).collect();
        assert!(left.is_empty(), "never asked for: {left:?}");
    }
}

impl Transport for Script {
    fn send(&self, request: &Request, _: Duration) -> Result<Response, Error> {
        let sent = parameters(request);
        let Some(step) = self.steps.borrow_mut().pop_front() else { panic!("unexpected {sent:?}") };
        assert_eq!(sent["Action"], step.action);
        for one in step.has {
            let (key, value) = one.split_once('=').unwrap();
            assert_eq!(sent.get(key).map(String::as_str), Some(value), "`{key}` of {sent:?}");
        }
        self.sent.borrow_mut().push(sent);
        let headers = step.retry_after.map(|seconds| ("Retry-After".to_owned(), seconds.to_owned()));
        let headers = headers.into_iter().collect();
        Ok(Response::new(request.to_string(), step.status, headers, Box::new(Cursor::new(step.body))))
    }
}

/// An instance as the API describes it; its state's reason, if any, is `CODE: MESSAGE`.
pub fn item(id: &str, state: &str, reason: &str) -> String {
    let reason = match reason.split_once(": ") {
        Some((code, _)) => format!("<stateReason><code>{code}</code><message>{reason}</message></stateReason>"),
        None => String::new(),
    };
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>0</code><name>{state}</name></instanceState>{reason}\
         <instanceType>t3.small</instanceType><launchTime>2026-11-23T10:00:00.000Z</launchTime>\
         <placement><availabilityZone>eu-west-1a</availabilityZone></placement>\
         <privateIpAddress>10.0.0.7</privateIpAddress><tagSet>\
         <item><key>pacer:owner</key><value>app-1</value></item><item><key>pacer:name</key><value>pacer-a</value></item>\
         <item><key>pacer:lease-until</key><value>7</value></item><item><key>pacer:tag:project</key><value>app</value></item>\
         </tagSet></item>"
    )
}

pub fn described(item: &str) -> String {
    format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet>{item}</instancesSet></item></reservationSet></DescribeInstancesResponse>"
    )
}

pub fn launched(item: &str) -> String {
    format!("<RunInstancesResponse><instancesSet>{item}</instancesSet></RunInstancesResponse>")
}

pub fn error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>because of {code}.</Message></Error></Errors></Response>"
    )
}
