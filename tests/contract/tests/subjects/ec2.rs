//! moto, a server that keeps instances, tags and templates as EC2 does. It takes any signature; the host's own is put to
//! the test where the host is.

use std::{
    collections::{BTreeSet, HashMap},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_tests::{daemon::Daemon, world::World};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex, task::spawn_blocking};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::instance::{Instances, Records};
use crate::scenarios::Place;

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// An image that it knows.
const IMAGE: &str = "ami-12c6146b";
/// By the service in it moto knows whom it is asked for.
const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=K/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";

/// A server for one run.
pub struct Moto {
    /// Before the daemon, which ends last.
    instances: OnceLock<Instances>,
    address: SocketAddr,
    /// Where a component finds it, with what it lacks.
    front: SocketAddr,
    _ending: DropGuard,
    _daemon: Daemon,
}

struct Direct(SocketAddr);

/// What moto lacks of EC2: a client token stands for one launch, with the parameters that it came with.
struct Front {
    moto: SocketAddr,
    /// The request and its answer, by token.
    launched: Mutex<HashMap<String, (String, String)>>,
}

impl Front {
    async fn start(moto: SocketAddr, ending: CancellationToken) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let front = Arc::new(Self { moto, launched: Mutex::default() });
        let router = Router::new().fallback(Self::answer).with_state(front);
        TaskTracker::new().spawn(async move {
            // It ends with the token; a server on the loopback has no other end.
            let _ = axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned()).await;
        });
        Ok(address)
    }

    async fn answer(State(front): State<Arc<Self>>, body: String) -> Response {
        let Some(token) = body.split('&').find_map(|pair| pair.strip_prefix("ClientToken=")).map(str::to_owned) else {
            return front.pass(body).await.1;
        };
        // One launch after the other: two of one token would both find it new.
        let mut launched = front.launched.lock().await;
        match launched.get(&token) {
            Some((first, answer)) if *first == body => xml(200, answer.clone()),
            Some(_) => xml(400, refusal("IdempotentParameterMismatch")),
            None => {
                let (answer, response) = front.pass(body.clone()).await;
                if response.status().is_success() {
                    launched.insert(token, (body, answer));
                }
                response
            }
        }
    }

    async fn pass(&self, body: String) -> (String, Response) {
        let moto = self.moto;
        let answered = spawn_blocking(move || Direct(moto).exchange(&body)).await;
        match answered.map_err(anyhow::Error::from).and_then(|answered| answered) {
            Ok((status, answer)) => (answer.clone(), xml(status, answer)),
            Err(error) => (String::new(), (StatusCode::BAD_GATEWAY, error.to_string()).into_response()),
        }
    }
}

fn xml(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, [(header::CONTENT_TYPE, "text/xml")], body).into_response()
}

fn refusal(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>{code}</Code>\
         <Message>refused</Message></Error></Errors><RequestID>r</RequestID></Response>"
    )
}

impl Moto {
    /// Why there is none, if there is none.
    pub async fn start() -> Result<Self, String> {
        let daemon = Daemon::start("moto.sh")?;
        let address = daemon.socket().display().to_string();
        let address = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        let ending = CancellationToken::new();
        let front = Front::start(address, ending.clone()).await.map_err(|error| error.to_string())?;
        Ok(Self { instances: OnceLock::new(), address, front, _ending: ending.drop_guard(), _daemon: daemon })
    }

    pub fn subject(&self) -> Subject {
        let codes = [
            (401, "AuthFailure", ErrorKind::Unauthorized),
            (403, "UnauthorizedOperation", ErrorKind::Unauthorized),
            (400, "InstanceLimitExceeded", ErrorKind::Quota),
            (500, "InsufficientInstanceCapacity", ErrorKind::Capacity),
            (500, "InternalError", ErrorKind::Unavailable),
            (503, "RequestLimitExceeded", ErrorKind::RateLimited),
        ];
        let refusals =
            codes.map(|(status, code, kind)| Refusal::new(status, refusal(code), "text/xml", kind).named(code));
        Subject {
            name: "ec2".to_owned(),
            component: super::component("ec2"),
            settings: json!({}),
            pool: json!({ "ami": IMAGE, "instance_types": ["t3.small"], "prices": { "t3.small": "0.0208" } }),
            endpoint: Endpoint {
                name: "ec2".to_owned(),
                target: Target::Tcp(self.front),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({ "credential": { "header": { "name": "authorization", "value": SIGNATURE } } }),
            },
            bootstrap: BootstrapKind::StartScript,
            runs: true,
            patience: PATIENCE,
            crowd: 12,
            pages: false,
            uses_up_names: false,
            grace: None,
            at_once: 4,
            refusals: refusals.into(),
            engine: Box::new(Direct(self.address)),
        }
    }

    /// The same by instant fleets.
    pub fn fleet(&self) -> Subject {
        let mut subject = self.subject();
        subject.name = "ec2, by fleets".to_owned();
        subject.pool["fleet"] = true.into();
        subject
    }
}

/// What stands between two tags of a flat piece of XML.
fn between<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    text.split(open.as_str()).skip(1).filter_map(|rest| rest.split(close.as_str()).next()).collect()
}

impl Direct {
    /// One request, without any library that the host uses: the status and the body.
    fn exchange(&self, body: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST / HTTP/1.0\r\nhost: ec2.us-east-1.amazonaws.com\r\nauthorization: {SIGNATURE}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }

    /// One action that succeeds.
    fn ask(&self, form: &str) -> anyhow::Result<String> {
        let (status, answer) = self.exchange(&format!("Version=2016-11-15&{form}"))?;
        ensure!(status == 200, "{form}: {status}");
        Ok(answer)
    }

    /// The ids of instances that are not terminated, with this tag.
    fn alive(&self, tag: &str, value: &str) -> anyhow::Result<Vec<String>> {
        let states = ["pending", "running", "stopping", "stopped", "shutting-down"];
        let mut form = format!("Action=DescribeInstances&Filter.1.Name=tag%3A{tag}&Filter.1.Value.1={value}");
        form.push_str("&Filter.2.Name=instance-state-name");
        for (index, state) in states.iter().enumerate() {
            form.push_str(&format!("&Filter.2.Value.{}={state}", index + 1));
        }
        let answer = self.ask(&form)?;
        Ok(between(&answer, "instanceId").into_iter().map(str::to_owned).collect())
    }
}

impl Place for Moto {
    fn subject(&self) -> Subject {
        Moto::subject(self)
    }

    fn pool(&self, _world: &World) -> Value {
        self.instances.get_or_init(|| Instances::start(Direct(self.address)));
        Moto::subject(self).pool
    }

    /// One request makes an instance.
    fn lost_answers(&self) -> &'static [usize] {
        &[1]
    }

    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()> {
        Direct(self.address).remove_stranger(machine)
    }
}

impl Records for Direct {
    type Id = String;

    fn ids(&self) -> anyhow::Result<Vec<String>> {
        self.alive("pacer%3Aname", "*")
    }

    fn user_data(&self, id: &String) -> anyhow::Result<String> {
        let answer = self.ask(&format!("Action=DescribeInstanceAttribute&Attribute=userData&InstanceId={id}"))?;
        let data = between(&answer, "value").pop().context("it has no user-data")?;
        Ok(String::from_utf8(STANDARD.decode(data)?)?)
    }

    fn runs(&self, id: &String) -> anyhow::Result<bool> {
        Ok(self.ask(&format!("Action=DescribeInstances&InstanceId.1={id}"))?.contains("<name>running</name>"))
    }

    /// It is made to be terminated when it powers off.
    fn is_off(&self, id: &String) {
        let _ = self.ask(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    }
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        self.alive("pacer%3Aowner", owner)
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        let form = format!(
            "Action=RunInstances&ImageId={IMAGE}&InstanceType=t3.small&MinCount=1&MaxCount=1\
             &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name\
             &TagSpecification.1.Tag.1.Value={name}"
        );
        self.ask(&form).map(drop)
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        let id = self.alive("Name", name)?.pop().context("the stranger is gone")?;
        self.ask(&format!("Action=TerminateInstances&InstanceId.1={id}")).map(drop)
    }

    fn hold(&self, name: &str) -> anyhow::Result<bool> {
        let id = self.alive("pacer%3Aname", name)?.pop().context("the machine is gone")?;
        self.ask(&format!("Action=CreateTags&ResourceId.1={id}&Tag.1.Key=pacer%3Ahold&Tag.1.Value="))?;
        Ok(true)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        let instances = self.ask(
            "Action=DescribeInstances&Filter.1.Name=instance-state-name&Filter.1.Value.1=pending&Filter.1.Value.2=running\
             &Filter.1.Value.3=stopping&Filter.1.Value.4=stopped",
        )?;
        let volumes = self.ask("Action=DescribeVolumes")?;
        let templates = self.ask("Action=DescribeLaunchTemplates")?;
        let spots = self.ask(
            "Action=DescribeSpotInstanceRequests&Filter.1.Name=state&Filter.1.Value.1=open&Filter.1.Value.2=active",
        )?;
        for (what, answer, tag) in [
            ("instance", &instances, "instanceId"),
            ("volume", &volumes, "volumeId"),
            ("launch template", &templates, "launchTemplateName"),
            ("spot request", &spots, "spotInstanceRequestId"),
        ] {
            all.extend(between(answer, tag).into_iter().map(|id| format!("{what} {id}")));
        }
        Ok(all)
    }
}
