//! The operations of the contract, each a call of the component in force.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;

use super::{
    super::{
        bindings::pacer::backend::model as wire,
        call::{Answer, DESTROY},
        convert,
        model::{
            BackendError, Backends, Bootstrap, Description, Destruction, ErrorKind, Instance, Price, RunnerRequest,
        },
        state::State,
    },
    Component, Host,
};
use crate::routing::BackendName;

/// Pages of a listing; at the usual hundred machines a page it is more than any pool has.
const PAGES: usize = 1_000;

/// Machines of a listing in all, and what they come to.
const LISTED: usize = 10_000;
const LISTED_BYTES: usize = 32 << 20;

/// What a machine of a listing takes up, about.
fn bytes(instance: &Instance) -> usize {
    let attributes = instance.attributes.iter().map(|(key, value)| key.len() + value.len());
    let texts = instance.addresses.iter().map(String::len).chain(attributes);
    size_of::<Instance>() + instance.handle.len() + instance.name.len() + instance.owner.len() + texts.sum::<usize>()
}

/// An instance that was asked for by name.
fn named(instance: wire::Instance, name: &str, owner: &str, state: &State) -> Result<Instance, String> {
    let instance = convert::instance(instance, &|text, longest| state.redact(text, longest))?;
    if instance.name != name || instance.owner != owner {
        return Err(format!(
            "asked for machine `{name}` of `{owner}`, it gave `{}` of `{}`",
            instance.name, instance.owner
        ));
    }
    Ok(instance)
}

impl Backends for Host {
    fn create(
        &self,
        backend: &BackendName,
        request: Arc<RunnerRequest>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Instance, BackendError>> {
        let backend = backend.clone();
        async move {
            let mut secrets = request.secrets.clone();
            match &request.bootstrap {
                Bootstrap::JitConfig(whole) | Bootstrap::CloudInit(whole) => secrets.push(whole.clone()),
                // It is in the clear what a script does, and which runner's it is; its secrets are named.
                Bootstrap::StartScript(_) => {}
            }
            let runner = request.name.to_string();
            self.invoke(&backend, "create", Some(runner), secrets, deadline, move |instance, store, context| {
                async move {
                    let created = instance
                        .pacer_backend_provisioner()
                        .call_create(&mut *store, &context, &convert::request(&request))
                        .await?;
                    Ok(Answer::of(created, |created| {
                        named(created, request.name.as_str(), &request.owner, store.data())
                    }))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn get(
        &self,
        backend: &BackendName,
        handle: &str,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Option<Instance>, BackendError>> {
        let (backend, handle) = (backend.clone(), handle.to_owned());
        async move {
            self.invoke(&backend, "get", None, Vec::new(), deadline, move |instance, store, context| {
                async move {
                    let found = instance.pacer_backend_provisioner().call_get(&mut *store, &context, &handle).await?;
                    let redact = |text: &str, longest: usize| store.data().redact(text, longest);
                    Ok(Answer::of(found, |found| found.map(|found| convert::instance(found, &redact)).transpose()))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn list(
        &self,
        backend: &BackendName,
        owner: &str,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<Instance>, BackendError>> {
        let (backend, owner) = (backend.clone(), owner.to_owned());
        async move {
            let ends = tokio::time::Instant::now() + deadline;
            let mut all = Vec::new();
            let (mut cursor, mut seen, mut size) = (None, HashSet::new(), 0);
            let without_end = |what: &str| BackendError {
                kind: ErrorKind::Internal,
                message: format!("backend `{backend}`: its listing {what}"),
                retry_after: None,
                asked: true,
            };
            for _ in 0..PAGES {
                let left = ends.saturating_duration_since(tokio::time::Instant::now());
                let (page, next) = self.list_page(&backend, &owner, cursor.take(), left).await?;
                all.extend(
                    page.into_iter().filter(|instance| instance.owner == owner).inspect(|one| size += bytes(one)),
                );
                if all.len() > LISTED || size > LISTED_BYTES {
                    return Err(without_end(&format!(
                        "is of more than {LISTED} machines or {LISTED_BYTES} bytes, which no pool has"
                    )));
                }
                match next {
                    None => return Ok(all),
                    Some(next) if seen.insert(next.clone()) => cursor = Some(next),
                    Some(_) => break,
                }
            }
            Err(without_end("does not come to an end"))
        }
        .boxed()
    }

    fn destroy(
        &self,
        backend: &BackendName,
        handle: &str,
        grace: Duration,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Destruction, BackendError>> {
        let (backend, handle) = (backend.clone(), handle.to_owned());
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        async move {
            self.invoke(&backend, DESTROY, None, Vec::new(), deadline, move |instance, store, context| {
                async move {
                    let outcome =
                        instance.pacer_backend_provisioner().call_destroy(store, &context, &handle, grace_ms).await?;
                    Ok(Answer::of(outcome, |outcome| Ok(convert::destruction(outcome))))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn renew_lease(
        &self,
        backend: &BackendName,
        handle: &str,
        until: Timestamp,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<(), BackendError>> {
        let (backend, handle) = (backend.clone(), handle.to_owned());
        async move {
            self.invoke(&backend, "renew-lease", None, Vec::new(), deadline, move |instance, store, context| {
                async move {
                    let until = convert::millis(until);
                    let outcome =
                        instance.pacer_backend_provisioner().call_renew_lease(store, &context, &handle, until).await?;
                    Ok(Answer::of(outcome, Ok))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn quote(
        &self,
        backend: &BackendName,
        settings: &serde_json::Value,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Option<Price>, BackendError>> {
        let (backend, settings) = (backend.clone(), settings.to_string());
        async move {
            self.invoke(&backend, "quote", None, Vec::new(), deadline, move |instance, store, context| {
                async move {
                    let quoted =
                        instance.pacer_backend_provisioner().call_quote(&mut *store, &context, &settings).await?;
                    Ok(Answer::of(quoted, |quoted| quoted.as_ref().map(convert::price).transpose()))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn console_log(
        &self,
        backend: &BackendName,
        handle: &str,
        max_bytes: u32,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<String, BackendError>> {
        let (backend, handle) = (backend.clone(), handle.to_owned());
        async move {
            self.invoke(&backend, "console-log", None, Vec::new(), deadline, move |instance, store, context| {
                async move {
                    let outcome = instance
                        .pacer_backend_provisioner()
                        .call_console_log(&mut *store, &context, &handle, max_bytes)
                        .await?;
                    let text = match outcome {
                        Ok(text) => text,
                        Err(error) => return Ok(Answer::Error(error)),
                    };
                    // It may be long, and is searched as a whole: where it begins, a secret may be cut in two.
                    let log = store.data().log();
                    let shown = tokio::task::spawn_blocking(move || log.redact(&text)).await?;
                    let longest = usize::try_from(max_bytes).unwrap_or(usize::MAX);
                    let start = shown.ceil_char_boundary(shown.len().saturating_sub(longest));
                    Ok(Answer::Fine(shown[start..].to_owned()))
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn digest(&self, backend: &BackendName) -> Option<Arc<str>> {
        match &*self.slots.get(backend)?.component.borrow() {
            Component::InForce(loaded) => Some(loaded.linked.digest.clone()),
            Component::Loading | Component::Refused(_) => None,
        }
    }

    fn fit(
        &self,
        backend: &BackendName,
        pool: &serde_json::Value,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Description>, BackendError>> {
        let (backend, pool) = (backend.clone(), pool.clone());
        async move { self.judge_pool(&backend, &pool, deadline).await }.boxed()
    }

    fn described(
        &self,
        backend: &BackendName,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Description>, BackendError>> {
        let backend = backend.clone();
        async move { Ok(self.slot(&backend)?.loaded(deadline).await?.description.clone()) }.boxed()
    }
}

impl Host {
    /// One page of a listing as the component gives it, whoever's the machines are, and the cursor of the next.
    pub async fn list_page(
        &self,
        backend: &BackendName,
        owner: &str,
        cursor: Option<String>,
        deadline: Duration,
    ) -> Result<(Vec<Instance>, Option<String>), BackendError> {
        let owner = owner.to_owned();
        self.invoke(backend, "list", None, Vec::new(), deadline, move |instance, store, context| {
            async move {
                let page = instance
                    .pacer_backend_provisioner()
                    .call_list(&mut *store, &context, &owner, cursor.as_deref())
                    .await?;
                Ok(Answer::of(page, |page| convert::page(page, &|text, longest| store.data().redact(text, longest))))
            }
            .boxed()
        })
        .await
    }
}
