//! Documents: nothing that is put into one becomes markup, and the seed is what cloud-init looks for.

use pacer_backend::serde_json::json;
use proptest::prelude::*;
use roxmltree::Document;

use super::fixture::Fixture;
use crate::{
    record::Record,
    seed,
    settings::Pool,
    template::{Parts, document, escape, judge},
};

fn pool(more: &serde_json::Value) -> Pool {
    serde_json::from_value(Fixture::pool(more)).unwrap()
}

fn parts<'a>(record: &'a Record) -> Parts<'a> {
    Parts { name: "one", record, disk: "/d<i>s'k", seed: "/se\"ed", console: "/con&sole", nvram: "/nv<ram" }
}

#[test]
fn settings_are_where_libvirt_looks_for_them() {
    let record = Record { runner: "one".into(), owner: "app-1".into(), ..Record::default() };
    let find = |more: &serde_json::Value, path: &[&str], attribute: &str| {
        let xml = document(&pool(more), &parts(&record));
        let parsed = Document::parse(&xml).unwrap_or_else(|e| panic!("{e}: {xml}"));
        let mut node = parsed.root_element();
        for step in path {
            node = node.children().find(|child| child.has_tag_name(*step))?;
        }
        if attribute.is_empty() { node.text().map(str::to_owned) } else { node.attribute(attribute).map(str::to_owned) }
    };
    let check = |more: serde_json::Value, path: &[&str], attribute: &str, expected: Option<&str>| {
        assert_eq!(find(&more, path, attribute).as_deref(), expected, "{more} {path:?} {attribute}");
    };
    check(json!({}), &["name"], "", Some("one"));
    check(json!({}), &["on_poweroff"], "", Some("destroy"));
    check(json!({}), &["features", "acpi"], "x", None);
    check(json!({ "memory": "4g" }), &["memory"], "", Some("4194304"));
    check(json!({ "cpus": 8 }), &["vcpu"], "", Some("8"));
    check(json!({}), &["devices", "disk", "source"], "file", Some("/d<i>s'k"));
    check(json!({}), &["devices", "serial", "source"], "path", Some("/con&sole"));
    check(json!({}), &["devices", "interface"], "type", None);
    check(json!({ "network": "user" }), &["devices", "interface"], "type", Some("user"));
    check(json!({ "network": "a\"b" }), &["devices", "interface", "source"], "network", Some("a\"b"));
    check(json!({ "network": "bridge:br0" }), &["devices", "interface", "source"], "bridge", Some("br0"));
    check(json!({ "machine": "q35", "arch": "x86_64" }), &["os", "type"], "machine", Some("q35"));
    check(json!({ "machine": "q35", "arch": "x86_64" }), &["os", "type"], "arch", Some("x86_64"));
    check(json!({}), &["on_reboot"], "", Some("destroy"));
    check(json!({ "firmware": "efi" }), &["os"], "firmware", Some("efi"));
    check(json!({ "firmware": "efi" }), &["os", "nvram"], "", Some("/nv<ram"));
    check(json!({}), &["os", "nvram"], "", None);
    check(json!({}), &["os"], "firmware", None);
    check(json!({}), &["cpu"], "mode", None);
    check(json!({ "domain_type": "kvm" }), &["cpu"], "mode", Some("host-passthrough"));
    check(json!({ "cpu": "host-model" }), &["cpu"], "mode", Some("host-model"));
    check(json!({ "cpu": "Skylake-Client" }), &["cpu", "model"], "", Some("Skylake-Client"));
}

#[test]
fn templates_are_judged() {
    let check = |template: &str, expected: &[&str]| {
        let wrong = judge(template);
        assert_eq!(wrong.len(), expected.len(), "{template}: {wrong:?}");
        for (wrong, expected) in wrong.iter().zip(expected) {
            assert!(wrong.contains(expected), "{wrong}");
        }
    };
    let whole =
        "<domain><name>{{name}}</name><metadata>{{ metadata }}</metadata><d a='{{disk}}' b=\"{{seed}}\"/></domain>";
    check(whole, &[]);
    check(
        &whole.replace(
            "</domain>",
            "<x>{{cpus}} {{memory_kib}} {{network}} {{console}} {{nvram}} {{domain_type}}</x></domain>",
        ),
        &[],
    );
    check(&whole.replace("<name>", "<name>{{nmae}}"), &["not known"]);
    check(&whole.replace("{{seed}}", "/x"), &["lacks the placeholder `{{seed}}`"]);
    check(&whole.replace("</domain>", ""), &["not well-formed"]);
    check(&whole.replace("domain>", "network>"), &["`<domain>`"]);
    check(&whole.replace("metadata>", "title>"), &["within its `<metadata>`"]);
    check("", &["`{{name}}`", "`{{metadata}}`", "`{{disk}}`", "`{{seed}}`", "not well-formed"]);
}

#[test]
fn a_value_that_looks_like_a_placeholder_stays_text() {
    let record = Record { owner: "{{disk}}".into(), ..Record::default() };
    let parts = Parts { name: "{{metadata}}", ..parts(&record) };
    let xml = document(&pool(&json!({})), &parts);
    assert!(xml.contains("<name>{{metadata}}</name>") && xml.contains("owner=\"{{disk}}\""), "{xml}");
}

#[test]
fn the_seed_is_a_disc_of_two_files() {
    let user_data = "#cloud-config\n".repeat(1000);
    let image = seed::image("a-runner", &user_data);
    assert_eq!(image.len() % 2048, 0);
    let sector = |at: usize| &image[at * 2048..(at + 1) * 2048];
    for (at, kind) in [(16, 1), (17, 2), (18, 255)] {
        assert_eq!((sector(at)[0], &sector(at)[1..6]), (kind, &b"CD001"[..]));
    }
    assert_eq!(&sector(16)[40..46], b"cidata");
    let sectors = u32::from_le_bytes(sector(16)[80..84].try_into().unwrap());
    assert_eq!(usize::try_from(sectors).unwrap() * 2048, image.len());
    // The directory of Joliet: itself, its parent, the files.
    let mut directory = &sector(24)[68..];
    let mut files = Vec::new();
    while directory[0] != 0 {
        let (entry, rest) = directory.split_at(directory[0].into());
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()) as usize;
        let name = entry[33..33 + usize::from(entry[32])].chunks(2).map(|c| char::from(c[1])).collect::<String>();
        files.push((name, &image[number(2) * 2048..][..number(10)]));
        directory = rest;
    }
    let meta_data = "instance-id: \"a-runner\"\nlocal-hostname: \"a-runner\"\n";
    assert_eq!(files, [("meta-data".into(), meta_data.as_bytes()), ("user-data".into(), user_data.as_bytes())]);
}

/// Text that XML can hold; what it cannot is left out.
fn holdable(text: &str) -> String {
    let fits = |c: &char| matches!(c, '\t' | '\n' | '\r') || (*c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().filter(fits).collect()
}

proptest! {
    #[test]
    fn nothing_becomes_markup(text: String) {
        let xml = format!("<a b=\"{0}\" c='{0}'>{0}</a>", escape(&text));
        let parsed = Document::parse(&xml).unwrap();
        let root = parsed.root_element();
        let expected = holdable(&text);
        prop_assert_eq!(root.attribute("b"), Some(expected.as_str()));
        prop_assert_eq!(root.attribute("c"), Some(expected.as_str()));
        prop_assert_eq!(root.text().unwrap_or_default(), expected);
        prop_assert_eq!(root.children().filter(roxmltree::Node::is_element).count(), 0);
    }

    #[test]
    fn a_record_is_read_as_it_was_written(
        owner: String, lease_until_ms: u64, created_at_ms: u64, tags in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
    ) {
        let tags = tags.into_iter().map(|(k, v)| (holdable(&k), holdable(&v))).collect();
        let record = Record {
            runner: "one".into(), owner: holdable(&owner), storage_pool: "default".into(), lease_until_ms, created_at_ms, tags,
        };
        let xml = document(&pool(&json!({})), &parts(&record));
        prop_assert_eq!(Record::read(&xml), Some((record, false)));
    }
}
