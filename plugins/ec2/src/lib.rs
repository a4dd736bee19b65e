//! Runners as instances of EC2, or of any API that speaks its Query protocol.
//!
//! What holds here:
//! * A request carries no signature: the host adds it to what leaves the sandbox.
//! * Before anything is launched, the instances of this runner are looked for by their tags. Each attempt has a client
//!   token of its own, the same at every repetition, so that an answer that was lost is not an instance that was lost.
//! * An instance that EC2 does not show yet is `creating`, not gone: its age is part of the handle.
//! * The bootstrap is user-data and nothing else: no tag, name, error or log.
//!
//! Not here: networks, images and permissions, which the operator makes; stopped instances that are started again.

mod api;
mod fault;
mod instance;
mod launch;
mod settings;
#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{
    Backend, Billing, Call, Description, Destruction, EndpointRequest, Error, Finding, Instance, InstanceState, Page,
    Price, RunnerRequest, settings::refuse, text, time,
};

use api::{Ec2, Form};
use fault::Fault;
use instance::{Handle, LEASE, OWNER, seen};
use settings::{Market, Pool, Settings};

/// The name of the endpoint.
const ENDPOINT: &str = "ec2";
/// Instances in one page of a listing; EC2 takes 5 to 1,000.
const PAGE: u32 = 500;
/// How long EC2 may not show an instance that it has just made. It says "eventually"; this is far beyond what is seen.
const SHOWN_WITHIN_MS: u64 = 5 * 60 * 1000;

/// The backend.
pub struct Instances;
pacer_backend::export!(Instances);
type C<'a> = Call<'a, Settings>;

impl Backend for Instances {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "ec2".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners on instances of EC2".into(),
            settings_schema: settings::backend_schema(),
            pool_schema: settings::pool_schema(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "the EC2 API of one region, with a credential that signs requests for it".into(),
                required: true,
                example: "https://ec2.eu-west-1.amazonaws.com".into(),
            }],
            capabilities: ["renew-lease", "console-log", "quote"].map(String::from).into(),
            bootstraps: ["cloud-init", "start-script"].map(String::from).into(),
            // Linux by the second, a minute at least.
            billing: Billing { granularity_seconds: 1, minimum_seconds: 60 },
            attributes: vec![],
        }
    }

    fn validate(_settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        pool.map(Pool::findings).unwrap_or_default()
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        refuse(&request.pool.findings())?;
        launch::create(&Ec2(call), &request)
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        let Some(handle) = Handle::parse(handle) else { return Ok(None) };
        find(&Ec2(call), &handle)
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let mut form = Form::new("DescribeInstances")
            .filter(1, &format!("tag:{OWNER}"), &[owner])
            .filter(2, "instance-state-name", &["pending", "running", "stopping", "stopped", "shutting-down"])
            .set("MaxResults", PAGE.to_string());
        if let Some(cursor) = cursor {
            form = form.set("NextToken", cursor);
        }
        let answer = Ec2(call).ask(form)?;
        let document = answer.document()?;
        let instances = seen(&document).into_iter().filter(|found| found.owner == owner);
        let next = api::text(document.root_element(), "nextToken").filter(|token| !token.is_empty());
        Ok(Page { instances: instances.map(|found| found.into_instance()).collect(), next })
    }

    fn destroy(call: &C<'_>, handle: &str, _grace_ms: u64) -> Result<Destruction, Error> {
        let Some(handle) = Handle::parse(handle) else { return Ok(Destruction::Gone) };
        let ec2 = Ec2(call);
        let done = match look(&ec2, &handle)? {
            // EC2 shows it for an hour; nothing of it is left.
            Some(seen) if seen.is_terminated => Destruction::Gone,
            None if !is_young(&handle) => Destruction::Gone,
            // A termination shuts the system down first, for as long as EC2 gives it.
            Some(_) | None => match ec2.ask(Form::new("TerminateInstances").set("InstanceId.1", handle.id.as_str())) {
                Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => Destruction::Stopping,
                Err(fault) => return Err(fault.into()),
                Ok(_) => Destruction::Stopping,
            },
        };
        if handle.has_template && done == Destruction::Gone {
            launch::forget_template(&ec2, &handle.name)?;
        }
        Ok(done)
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let handle = known(handle)?;
        let form = Form::new("CreateTags")
            .set("ResourceId.1", handle.id)
            .set("Tag.1.Key", LEASE)
            .set("Tag.1.Value", until_ms.to_string());
        Ec2(call).ask(form)?;
        Ok(())
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let handle = known(handle)?;
        let ask = |latest: bool| {
            let form = Form::new("GetConsoleOutput").set("InstanceId", handle.id.as_str());
            Ec2(call).ask(if latest { form.set("Latest", "true") } else { form })
        };
        let answer = match ask(true) {
            // Only some kinds of instances give the latest; the others give what was buffered at some time.
            Err(Fault::Refused(refusal)) if refusal.is_unsupported() => ask(false)?,
            answer => answer?,
        };
        let document = answer.document()?;
        let encoded = api::text(document.root_element(), "output").unwrap_or_default();
        let packed: String = encoded.split_whitespace().collect();
        let bytes = STANDARD.decode(packed).map_err(|_| Error::unavailable("EC2's console output is not base64"))?;
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        text::tail(bytes.as_slice(), max).map_err(|error| Error::internal(error.to_string()))
    }

    fn quote(call: &C<'_>, pool: Pool) -> Result<Option<Price>, Error> {
        let Some(first) = pool.instance_types.first() else { return Ok(None) };
        if pool.market == Market::OnDemand {
            return Ok(pool.price_of(first));
        }
        let form = Form::new("DescribeSpotPriceHistory")
            .set("InstanceType.1", first.as_str())
            .set("ProductDescription.1", "Linux/UNIX")
            .set("StartTime", time::rfc3339(time::now()))
            .set("MaxResults", "100");
        let answer = Ec2(call).ask(form)?;
        let document = answer.document()?;
        let prices = document.descendants().filter(|node| node.has_tag_name("spotPrice"));
        // One for each zone: the dearest is what may have to be paid.
        let dearest = prices.filter_map(|node| Price::per_hour(node.text()?.trim(), "USD"));
        Ok(dearest.max_by_key(|price| price.micros_per_hour).or_else(|| pool.price_of(first)))
    }
}

fn known(handle: &str) -> Result<Handle, Error> {
    Handle::parse(handle).ok_or_else(|| Error::not_found(format!("there is no instance `{handle}`")))
}

fn is_young(handle: &Handle) -> bool {
    time::now().saturating_sub(handle.created_at_ms) < SHOWN_WITHIN_MS
}

/// What EC2 shows of a handle's instance.
fn look(ec2: &Ec2<'_, '_>, handle: &Handle) -> Result<Option<instance::Seen>, Error> {
    match ec2.ask(Form::new("DescribeInstances").set("InstanceId.1", handle.id.as_str())) {
        Ok(answer) => Ok(seen(&answer.document()?).into_iter().find(|found| found.id == handle.id)),
        Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// The instance behind a handle, or what its age says where EC2 does not know it.
fn find(ec2: &Ec2<'_, '_>, handle: &Handle) -> Result<Option<Instance>, Error> {
    match look(ec2, handle)? {
        // Tags may be shown later than their instance.
        Some(found) if found.owner.is_empty() && is_young(handle) => Ok(Some(handle.not_shown_yet(found.state))),
        // EC2 shows it for an hour; nothing of it is left.
        Some(found) if found.is_over() && !handle.has_template => Ok(None),
        Some(found) if found.owner == handle.owner => Ok(Some(found.into_instance())),
        Some(_) => Ok(None),
        None => Ok(is_young(handle).then(|| handle.not_shown_yet(InstanceState::Creating))),
    }
}
