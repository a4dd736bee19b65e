//! A real server, moto, that keeps instances, tags and templates as EC2 does. It is asked without a signature: the host's
//! are put to the test where the host is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pacer_backend::{
    Backend, Destruction, Error, Instance, InstanceState,
    http::{Request, Response, Transport},
    testing::{Daemon, Shared},
};
use roxmltree::Node;
use serde_json::json;

use super::{pool, request, with};
use crate::{
    Instances,
    api::{Ec2, Form},
    instance::seen,
};

struct Moto(Daemon);

/// The server that the tests of this process share.
fn moto() -> Option<Arc<Moto>> {
    static SHARED: Shared<Moto> = Shared::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/engines/moto.sh");
    SHARED.get(|| Daemon::start(&script).map(Moto))
}

impl Transport for Moto {
    fn send(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        let broken = |e: std::io::Error| Error::unavailable(format!("`{request}`: {e}"));
        let mut stream = TcpStream::connect(self.0.socket.display().to_string()).map_err(broken)?;
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
        let form = Form::new("DescribeInstances").filter("tag:pacer:owner", &[owner]);
        self.ask(&form, seen).into_iter().filter(|seen| seen.is_alive()).map(|seen| seen.name).collect()
    }

    fn ask<T>(&self, form: &Form, read: impl FnOnce(Node<'_, '_>) -> T) -> T {
        with(self, |call| Ec2(call).ask(form, read)).unwrap()
    }

    /// Volumes, or templates, of an owner.
    fn owned(&self, action: &str, tag: &str, owner: &str) -> usize {
        let form = Form::new(action).filter("tag:pacer:owner", &[owner]);
        self.ask(&form, |root| root.descendants().filter(|node| node.has_tag_name(tag)).count())
    }

    fn templates(&self, owner: &str) -> usize {
        self.owned("DescribeLaunchTemplates", "launchTemplateName", owner)
    }

    fn volumes(&self, owner: &str) -> usize {
        self.owned("DescribeVolumes", "size", owner)
    }

    fn make_template(&self, name: &str, more: &[(&str, &str)]) {
        let form = Form::new("CreateLaunchTemplate").set("LaunchTemplateName", name);
        let form =
            form.set("LaunchTemplateData.ImageId", self.image()).set("LaunchTemplateData.InstanceType", "t3.small");
        self.ask(&more.iter().fold(form, |form, (key, value)| form.set(*key, *value)), |_| ());
    }

    /// An image that it knows.
    fn image(&self) -> String {
        let id = |root: Node<'_, '_>| {
            root.descendants().find(|node| node.has_tag_name("imageId")).and_then(|node| node.text()).map(str::to_owned)
        };
        self.ask(&Form::new("DescribeImages").set("MaxResults", "5"), id).expect("moto has images")
    }

    fn gone(&self, handle: &str) {
        let is_gone = |_: usize| with(self, |call| Instances::destroy(call, handle, 0)).unwrap() == Destruction::Gone;
        assert!((0..10).any(is_gone), "it goes");
    }

    fn listed(&self, owner: &str) -> Vec<Instance> {
        with(self, |call| Instances::list(call, owner, None)).unwrap().instances
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
    moto.ask(&tag, |_| ());
    let got = with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().unwrap();
    assert_eq!((got.lease_until_ms, got.hold), (Some(2_000_000_000_000), true));
    assert!(with(&*moto, |call| Instances::console_log(call, &made.handle, 1000)).is_ok());

    for handle in [&made.handle, &made.handle] {
        moto.gone(handle);
    }
    assert!(with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().is_none(), "though moto shows it");
    assert_eq!((moto.left("life"), moto.volumes("life")), (Vec::<String>::new(), 0));
    moto.gone(&moto.listed("other")[0].handle);
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
fn a_fleet_makes_an_instance_and_leaves_nothing() {
    let Some(moto) = moto() else { return };
    let settings = pool(json!({ "ami": moto.image(), "fleet": true, "instance_types": ["t3.small", "t3.medium"] }));
    let made = with(&*moto, |call| Instances::create(call, request("pacer-fleet", "fleet", settings))).unwrap();
    assert_eq!((made.name.as_str(), made.owner.as_str()), ("pacer-fleet", "fleet"));
    assert_eq!(made.price.as_ref().map(|price| price.micros_per_hour), Some(20_800));
    assert_eq!((moto.templates("fleet"), moto.volumes("fleet")), (0, 1), "its volume has tags too");
    moto.gone(&made.handle);
    assert!(with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().is_none(), "though moto shows it");
    assert_eq!((moto.left("fleet"), moto.volumes("fleet")), (Vec::<String>::new(), 0));
}

#[test]
fn a_volume_that_its_template_keeps_is_listed_and_removed() {
    let Some(moto) = moto() else { return };
    let mapping = "LaunchTemplateData.BlockDeviceMapping.1";
    let kept = [("DeviceName", "/dev/sdb"), ("Ebs.VolumeSize", "5"), ("Ebs.DeleteOnTermination", "false")];
    let kept = kept.map(|(key, value)| (format!("{mapping}.{key}"), value));
    moto.make_template("keeps-a-volume", &kept.each_ref().map(|(key, value)| (key.as_str(), *value)));
    let settings = || {
        serde_json::from_value(json!({ "launch_template": { "name": "keeps-a-volume" }, "ami": moto.image() })).unwrap()
    };
    let make = |name: &str| with(&*moto, |call| Instances::create(call, request(name, "volumes", settings()))).unwrap();
    let (made, other) = (make("pacer-volumes"), make("pacer-beside"));
    assert_eq!(moto.volumes("volumes"), 4);
    // It powers itself off.
    let id = made.handle.split('/').next().unwrap();
    moto.ask(&Form::new("TerminateInstances").set("InstanceId.1", id), |_| ());
    assert_eq!(moto.volumes("volumes"), 3, "one is left");
    let found = with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().unwrap();
    assert!(matches!(found.state, InstanceState::Stopped));
    let listed = moto.listed("volumes");
    let told: Vec<_> =
        listed.iter().map(|one| (one.name.as_str(), matches!(one.state, InstanceState::Stopped))).collect();
    assert_eq!(told, [("pacer-beside", false), ("pacer-volumes", true)]);
    assert!(with(&*moto, |call| Instances::get(call, &listed[1].handle)).unwrap().is_some());
    // By the handle of its instance, or by the one of the listing.
    moto.gone(&listed[1].handle);
    assert!(with(&*moto, |call| Instances::get(call, &listed[1].handle)).unwrap().is_none());
    assert!(with(&*moto, |call| Instances::get(call, &made.handle)).unwrap().is_none());
    moto.gone(&other.handle);
    assert_eq!((moto.volumes("volumes"), moto.listed("volumes").len()), (0, 0));
}

#[test]
fn a_template_without_an_instance_is_listed_and_removed_and_a_strangers_is_not() {
    let Some(moto) = moto() else { return };
    let tags = |owner: &'static str, name: &'static str| {
        [
            ("TagSpecification.1.ResourceType", "launch-template"),
            ("TagSpecification.1.Tag.1.Key", "pacer:owner"),
            ("TagSpecification.1.Tag.1.Value", owner),
            ("TagSpecification.1.Tag.2.Key", "pacer:name"),
            ("TagSpecification.1.Tag.2.Value", name),
        ]
    };
    moto.make_template("pacer-pacer-cut-off", &tags("templates", "pacer-cut-off"));
    moto.make_template("pacer-pacer-theirs", &tags("templates-of-others", "pacer-cut-off"));
    let listed = moto.listed("templates");
    assert_eq!(listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["pacer-cut-off"]);
    moto.gone(&listed[0].handle);
    assert_eq!((moto.templates("templates"), moto.templates("templates-of-others")), (0, 1));
    assert!(moto.listed("templates").is_empty());
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
            moto.gone(&instance.handle);
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
