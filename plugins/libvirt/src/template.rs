//! The domain document of a machine: libvirt's description of its hardware, from settings or from a template.
//!
//! Whatever is put into a document is escaped, so neither a name nor a setting can become markup. The one exception is
//! `{{metadata}}`, which is an element made here.

use crate::{
    record::Record,
    settings::{Firmware, Network, Pool},
};

/// The placeholders, and whether a template that lacks one makes a machine that cannot be found or cannot start.
const PLACEHOLDERS: &[(&str, bool)] = &[
    ("name", true),
    ("metadata", true),
    ("disk", true),
    ("seed", true),
    ("console", false),
    ("nvram", false),
    ("cpus", false),
    ("memory_kib", false),
    ("network", false),
    ("domain_type", false),
];

/// What a document is made of.
pub struct Parts<'a> {
    pub name: &'a str,
    pub record: &'a Record,
    pub disk: &'a str,
    pub seed: &'a str,
    pub console: &'a str,
    /// Where EFI firmware keeps what it remembers: among the volumes, because libvirt leaves it behind.
    pub nvram: &'a str,
}

/// Text as it may stand in an element or in an attribute. Characters that XML cannot hold at all are left out.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // As they are, a parser would turn them into spaces.
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", u32::from(c))),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

/// The document of a machine.
pub fn document(pool: &Pool, parts: &Parts<'_>) -> String {
    let (text, metadata) = (
        match &pool.template {
            Some(template) => template.clone(),
            None => own(pool),
        },
        parts.record.element(),
    );
    fill(&text, |placeholder| match placeholder {
        "name" => Some(escape(parts.name)),
        "metadata" => Some(metadata.clone()),
        "disk" => Some(escape(parts.disk)),
        "seed" => Some(escape(parts.seed)),
        "console" => Some(escape(parts.console)),
        "nvram" => Some(escape(parts.nvram)),
        "cpus" => Some(pool.cpus.to_string()),
        "memory_kib" => Some(pool.memory_kib().to_string()),
        "network" => Some(escape(match pool.network() {
            Network::Named(name) | Network::Bridge(name) => name,
            Network::User | Network::None => "",
        })),
        "domain_type" => Some(pool.domain_type.word().to_owned()),
        _ => None,
    })
}

/// Replaces each `{{word}}` once; what a value brings along is never looked at again.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        match after.split_once("}}") {
            Some((word, after)) => {
                filled.push_str(&value(word.trim()).unwrap_or_default());
                rest = after;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// What is wrong with a template.
pub fn judge(template: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = std::cell::RefCell::new(Vec::new());
    let sample = fill(template, |word| {
        seen.borrow_mut().push(word.to_owned());
        Some(if word == "metadata" { Record::default().element() } else { "1".into() })
    });
    let seen = seen.into_inner();
    for word in &seen {
        if !PLACEHOLDERS.iter().any(|(known, _)| known == word) {
            let known: Vec<_> = PLACEHOLDERS.iter().map(|(word, _)| format!("`{{{{{word}}}}}`")).collect();
            wrong.push(format!("has a placeholder that is not known; there are {}", known.join(", ")));
        }
    }
    for (word, _) in PLACEHOLDERS.iter().filter(|(word, required)| *required && !seen.iter().any(|s| s == word)) {
        wrong.push(format!("lacks the placeholder `{{{{{word}}}}}`"));
    }
    match roxmltree::Document::parse(&sample) {
        Err(_) => wrong.push("is not well-formed XML".into()),
        Ok(document) if !document.root_element().has_tag_name("domain") => {
            wrong.push("is not a `<domain>` document".into())
        }
        Ok(document) if seen.iter().any(|word| word == "metadata") && Record::find(&document).is_none() => {
            wrong.push("must have `{{metadata}}` within its `<metadata>` element".into());
        }
        Ok(_) => {}
    }
    wrong
}

/// The document for a pool without a template; itself a template.
///
/// A machine that reboots is over: it is one job's, and its start script could not tell that it ran before.
fn own(pool: &Pool) -> String {
    let attribute = |name: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!(" {name}=\"{}\"", escape(value)))
    };
    let (firmware, nvram) = match pool.firmware {
        Firmware::Bios => ("", ""),
        Firmware::Efi => (" firmware=\"efi\"", "<nvram>{{nvram}}</nvram>"),
    };
    let model = match (&pool.cpu, pool.domain_type) {
        (Some(cpu), _) => Some(cpu.as_str()),
        (None, crate::settings::DomainType::Kvm) => Some("host-passthrough"),
        (None, crate::settings::DomainType::Qemu | crate::settings::DomainType::Test) => None,
    };
    let cpu = match model {
        None => String::new(),
        Some(mode @ ("host-passthrough" | "host-model" | "maximum")) => format!("  <cpu mode=\"{mode}\"/>\n"),
        Some(model) => format!("  <cpu mode=\"custom\" match=\"exact\"><model>{}</model></cpu>\n", escape(model)),
    };
    let interface = match pool.network() {
        Network::None => "",
        Network::Named(_) => {
            "    <interface type=\"network\"><source network=\"{{network}}\"/><model type=\"virtio\"/></interface>\n"
        }
        Network::Bridge(_) => {
            "    <interface type=\"bridge\"><source bridge=\"{{network}}\"/><model type=\"virtio\"/></interface>\n"
        }
        Network::User => "    <interface type=\"user\"><model type=\"virtio\"/></interface>\n",
    };
    format!(
        r#"<domain type="{{{{domain_type}}}}">
  <name>{{{{name}}}}</name>
  <metadata>{{{{metadata}}}}</metadata>
  <memory unit="KiB">{{{{memory_kib}}}}</memory>
  <vcpu>{{{{cpus}}}}</vcpu>
  <os{firmware}><type{arch}{machine}>hvm</type>{nvram}<boot dev="hd"/></os>
  <features><acpi/></features>
{cpu}  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/>
      <source file="{{{{disk}}}}"/>
      <target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/>
      <source file="{{{{seed}}}}"/>
      <target dev="vdb" bus="virtio"/>
      <readonly/>
    </disk>
{interface}    <serial type="file"><source path="{{{{console}}}}"/><target port="0"/></serial>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
  </devices>
</domain>
"#,
        arch = attribute("arch", &pool.arch),
        machine = attribute("machine", &pool.machine),
    )
}
