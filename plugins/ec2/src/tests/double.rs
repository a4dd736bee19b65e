//! What moto does not do as EC2 does: a client token stands for one instance, and what was made is shown later.

use std::{cell::RefCell, collections::HashMap, io::Cursor, time::Duration};

use pacer_backend::{
    Backend, Error, InstanceState,
    http::{Request, Response, Transport},
    testing::Memory,
};
use serde_json::json;

use super::{pool, remembering, request};
use crate::Instances;

/// EC2 as far as tokens and visibility go.
#[derive(Default)]
struct Double {
    /// Instance and parameters by client token.
    launched: RefCell<HashMap<String, (String, String)>>,
    /// Looks until an instance is shown.
    hidden: RefCell<u32>,
    /// Answers that are lost after they took effect.
    lost: RefCell<u32>,
}

impl Transport for Double {
    fn send(&self, request: &Request, _: Duration) -> Result<Response, Error> {
        let body = String::from_utf8(request.body.clone()).unwrap();
        let value = |key: &str| {
            body.split('&')
                .find_map(|pair| pair.strip_prefix(&format!("{key}=")).map(str::to_owned))
                .unwrap_or_default()
        };
        let item = |id: &str| {
            format!(
                "<instancesSet><item><instanceId>{id}</instanceId><instanceState><name>pending</name></instanceState>\
             <launchTime>2026-11-23T10:00:00.000Z</launchTime><tagSet><item><key>pacer:owner</key><value>app-1</value></item>\
             <item><key>pacer:name</key><value>pacer-a</value></item></tagSet></item></instancesSet>"
            )
        };
        let (status, answer) = match value("Action").as_str() {
            "RunInstances" => {
                let (token, parameters) = (value("ClientToken"), body.replace("UserData", ""));
                let mut launched = self.launched.borrow_mut();
                let next = format!("i-{}", launched.len() + 1);
                let (id, first) = launched.entry(token).or_insert((next, parameters.clone())).clone();
                if first == parameters {
                    (200, format!("<RunInstancesResponse>{}</RunInstancesResponse>", item(&id)))
                } else {
                    (400, "<Response><Errors><Error><Code>IdempotentParameterMismatch</Code><Message>m</Message></Error></Errors></Response>".to_owned())
                }
            }
            _ => {
                let mut hidden = self.hidden.borrow_mut();
                let shown = if *hidden > 0 {
                    String::new()
                } else {
                    self.launched.borrow().values().map(|(id, _)| item(id)).collect()
                };
                *hidden = hidden.saturating_sub(1);
                (
                    200,
                    format!(
                        "<DescribeInstancesResponse><reservationSet><item>{shown}</item></reservationSet></DescribeInstancesResponse>"
                    ),
                )
            }
        };
        let mut lost = self.lost.borrow_mut();
        if *lost > 0 && value("Action") == "RunInstances" {
            *lost -= 1;
            return Err(Error::unavailable("the connection was reset"));
        }
        Ok(Response::new(request.to_string(), status, vec![], Box::new(Cursor::new(answer))))
    }
}

#[test]
fn an_answer_that_was_lost_is_no_second_instance_whatever_is_shown() {
    // `hidden`: the looks that find nothing, from "seen at once" to "seen long after".
    for hidden in [0, 1, 3] {
        for lease in [1_900_000_000_123, 1_900_000_000_999] {
            let double = Double::default();
            let memory = Memory::default();
            *double.lost.borrow_mut() = 1;
            let first = remembering(&double, &memory, |call| {
                Instances::create(call, request("pacer-a", "app-1", pool(json!({}))))
            });
            assert!(first.is_err());
            *double.hidden.borrow_mut() = hidden;
            let mut again = request("pacer-a", "app-1", pool(json!({})));
            again.lease_until_ms = lease;
            let made = remembering(&double, &memory, |call| Instances::create(call, again)).unwrap();
            assert!(made.handle.starts_with("i-1/") && matches!(made.state, InstanceState::Creating));
            assert_eq!(double.launched.borrow().len(), 1, "hidden {hidden}, lease {lease}");
        }
    }
}
