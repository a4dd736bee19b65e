//! A real server, moto, that keeps instances, tags and templates as EC2 does. It is asked without a signature: the host's
//! are put to the test where the host is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Destruction, Error, InstanceState,
    http::{Request, Response, Transport},
    testing::Shared,
};
use serde_json::json;

use super::{PATIENCE, pool, request, with};
use crate::{Instances, api::Form, instance::seen};

struct Moto {
    child: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let target =
        option_env!("CARGO_TARGET_DIR").map_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"), |dir| dir);
    let own = Path::new(target).join("moto/bin/moto_server");
    if own.exists() { own } else { "moto_server".into() }
}

/// The server that the tests of this process share.
fn moto() -> Option<Arc<Moto>> {
    static SHARED: Shared<Moto> = Shared::new();
    SHARED.get(|| {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(program())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
            .env("MOTO_ENABLE_AMI_VALIDATION", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|_| "moto is not installed; tests/engines/moto.sh installs it")?;
        let moto = Moto { child, port };
        let since = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if since.elapsed() > PATIENCE * 2 {
                return Err("moto does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        Ok(moto)
    })
}

impl Transport for Moto {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        let broken = |e: std::io::Error| Error::unavailable(format!("`{request}`: {e}"));
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map_err(broken)?;
        stream.set_read_timeout(Some(timeout)).map_err(broken)?;
        // By the service in it moto knows whom it is asked for.
        let mut head = format!(
            "{} {} HTTP/1.0\r\nhost: ec2.us-east-1.amazonaws.com\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=K/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0\r\n",
            request.method, request.path
        );
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&request.body)).map_err(broken)?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(broken)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("moto speaks HTTP");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).map_err(broken)?;
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body).map_err(broken)?;
        Ok(Response::new(request.to_string(), status, vec![], Box::new(std::io::Cursor::new(body))))
    }
}

impl Moto {
    /// What is not terminated, of an owner, as EC2 itself says.
    fn left(&self, owner: &str) -> Vec<String> {
        let form = Form::new("DescribeInstances").filter(1, "tag:pacer:owner", &[owner]);
        let answer = with(self, |call| crate::api::Ec2(call).ask(form)).unwrap();
        let all = seen(&answer.document().unwrap());
        all.into_iter().filter(|seen| seen.is_alive()).map(|seen| seen.name).collect()
    }

    fn templates(&self) -> usize {
        let answer = with(self, |call| crate::api::Ec2(call).ask(Form::new("DescribeLaunchTemplates"))).unwrap();
        answer.document().unwrap().descendants().filter(|node| node.has_tag_name("launchTemplateName")).count()
    }

    /// An image that it knows.
    fn image(&self) -> String {
        let form = Form::new("DescribeImages").set("MaxResults", "5");
        let answer = with(self, |call| crate::api::Ec2(call).ask(form)).unwrap();
        let document = answer.document().unwrap();
        let id = document.descendants().find(|node| node.has_tag_name("imageId")).and_then(|node| node.text());
        id.expect("moto has images").to_owned()
    }
}

#[test]
fn an_instance_lives_from_create_to_destroy() {
    let Some(moto) = moto() else { return };
    let settings = || pool(json!({ "ami": moto.image(), "root_volume": { "size": 20 } }));
    let made = with(&*moto, |call| Instances::create(call, request("pacer-life", "life", settings()))).unwrap();
    assert_eq!((made.name.as_str(), made.owner.as_str()), ("pacer-life", "life"));
    assert_eq!(made.lease_until_ms, Some(1_900_000_000_123));
    assert_eq!(made.price.as_ref().map(|price| price.micros_per_hour), Some(20_800));
    assert!(made.attributes.contains(&("project".into(), "app".into())), "{:?}", made.attributes);
    let again = with(&*moto, |call| Instances::create(call, request("pacer-life", "life", settings()))).unwrap();
    assert_eq!(again.handle, made.handle, "the second create returns the first instance");

    with(&*moto, |call| Instances::create(call, request("pacer-other", "other", settings()))).unwrap();
    let listed = with(&*moto, |call| Instances::list(call, "life", None)).unwrap();
    assert_eq!(listed.instances.iter().map(|i| i.handle.as_str()).collect::<Vec<_>>(), [made.handle.as_str()]);
    let got = with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().unwrap();
    assert!(matches!(got.state, InstanceState::Running) && !got.hold && !got.addresses.is_empty());

    with(&*moto, |call| Instances::renew_lease(call, &made.handle, 2_000_000_000_000)).unwrap();
    let id = made.handle.split('/').next().unwrap();
    let tag = Form::new("CreateTags").set("ResourceId.1", id).set("Tag.1.Key", "pacer:hold").set("Tag.1.Value", "");
    with(&*moto, |call| crate::api::Ec2(call).ask(tag)).unwrap();
    let got = with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().unwrap();
    assert_eq!((got.lease_until_ms, got.hold), (Some(2_000_000_000_000), true));
    assert!(with(&*moto, |call| Instances::console_log(call, &made.handle, 1000)).is_ok());

    for handle in [&made.handle, &made.handle] {
        let gone = |_: usize| with(&*moto, |call| Instances::destroy(call, handle, 0)).unwrap() == Destruction::Gone;
        assert!((0..10).any(gone), "it goes");
    }
    let got = with(&*moto, |call| Instances::get(call, &made.handle)).unwrap();
    assert!(
        got.is_none_or(|got| matches!(got.state, InstanceState::Stopped)),
        "terminated instances are shown for a while"
    );
    assert_eq!(moto.left("life"), Vec::<String>::new());
    let other = with(&*moto, |call| Instances::list(call, "other", None)).unwrap().instances.remove(0);
    assert!(
        (0..10).any(|_| with(&*moto, |call| Instances::destroy(call, &other.handle, 0)).unwrap() == Destruction::Gone)
    );
    assert_eq!(moto.left("other"), Vec::<String>::new());
}

#[test]
fn what_does_not_exist_is_named() {
    let Some(moto) = moto() else { return };
    let check = |more: serde_json::Value, kind, says: &str| {
        let refused =
            with(&*moto, |call| Instances::create(call, request("pacer-none", "none", pool(more)))).unwrap_err();
        assert_eq!(refused.kind, kind, "{}", refused.message);
        assert!(refused.message.contains(says), "{}", refused.message);
    };
    let image = moto.image();
    check(json!({ "ami": "ami-00000000000000000" }), pacer_backend::ErrorKind::NotFound, "ami-00000000000000000");
    check(
        json!({ "ami": image, "instance_types": ["t9.gigantic"] }),
        pacer_backend::ErrorKind::NotFound,
        "t9.gigantic",
    );
    check(
        json!({ "ami": image, "subnets": ["subnet-00000000"] }),
        pacer_backend::ErrorKind::NotFound,
        "subnet-00000000",
    );
    assert_eq!(moto.left("none"), Vec::<String>::new());
}

#[test]
fn a_fleet_makes_an_instance_and_leaves_no_template() {
    let Some(moto) = moto() else { return };
    let settings = pool(json!({ "ami": moto.image(), "fleet": true, "instance_types": ["t3.small", "t3.medium"] }));
    let made = with(&*moto, |call| Instances::create(call, request("pacer-fleet", "fleet", settings))).unwrap();
    assert_eq!((made.name.as_str(), made.owner.as_str()), ("pacer-fleet", "fleet"));
    assert_eq!(moto.templates(), 0);
    assert!(
        (0..10).any(|_| with(&*moto, |call| Instances::destroy(call, &made.handle, 0)).unwrap() == Destruction::Gone)
    );
    assert_eq!(moto.left("fleet"), Vec::<String>::new());
}

#[test]
fn fifty_at_once_are_fifty_and_pages_show_each_once() {
    let Some(moto) = moto() else { return };
    let image = moto.image();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 50 {
                        break;
                    }
                    let name = format!("pacer-many-{number}");
                    with(&*moto, |call| Instances::create(call, request(&name, "many", pool(json!({ "ami": image })))))
                        .unwrap();
                }
            });
        }
    });
    let mut names = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = with(&*moto, |call| Instances::list(call, "many", cursor.as_deref())).unwrap();
        for instance in &page.instances {
            names.push(instance.name.clone());
            assert!((0..10).any(|_| {
                with(&*moto, |call| Instances::destroy(call, &instance.handle, 0)).unwrap() == Destruction::Gone
            }));
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), moto.left("many")), (50, Vec::<String>::new()));
}
