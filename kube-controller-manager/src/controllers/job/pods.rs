//! The pods that a Job makes. Pure.

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::facts::{FAILURES, FINALIZER, IGNORED_FAILURES, INDEX, JobExt, ignored_failures, index_failures};
use super::policies::judge;
use super::run::Run;
use crate::shared::meta::MetaExt;
use crate::shared::owned::Owner;
use crate::shared::pod_control::pod_from_template;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The server adds five characters to at most so many.
const GENERATED_PREFIX: usize = 58;

impl Run {
    /// The pod of the template, without an index.
    pub(super) fn new_pod(&self) -> Pod {
        let template = self.job.jspec().map(|s| s.template.clone()).unwrap_or_default();
        let mut pod = pod_from_template(&template, self.job.ns_str(), self.job.name_str(), self.job.reference());
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        if self.job.is_indexed()
            && let Some(spec) = &mut pod.spec
        {
            spec.init_containers.iter_mut().flatten().for_each(add_variable);
            spec.containers.iter_mut().for_each(add_variable);
        }
        pod
    }

    /// Makes a pod that of an index; it inherits the failures of the one before it.
    pub(super) fn set_index(&self, pod: &mut Pod, index: i32) {
        let text = index.to_string();
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), text.clone());
        if self.job.per_index_limit().is_some() {
            let (failures, ignored) = self.inherited_failures(index);
            annotations.insert(FAILURES.to_owned(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
            }
        }
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
        pod.metadata.generate_name = Some(name_prefix(self.job.name_str(), index));
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(format!("{}-{index}", self.job.name_str()));
        }
    }

    fn inherited_failures(&self, index: i32) -> (i32, i32) {
        let Some(before) = self.delayed.get(&index) else { return (0, 0) };
        let counted = judge(self.job.jspec().and_then(|s| s.pod_failure_policy.as_ref()), before).counts();
        let (failures, ignored) = (index_failures(before), ignored_failures(before));
        if counted { (failures + 1, ignored) } else { (failures, ignored + 1) }
    }
}

fn name_prefix(job: &str, index: i32) -> String {
    let tail = format!("-{index}-");
    let room = GENERATED_PREFIX.saturating_sub(tail.len());
    format!("{}{tail}", job.get(..room).unwrap_or(job))
}

fn add_variable(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value_from: Some(source), ..EnvVar::default() });
}

#[cfg(test)]
mod tests {
    #[test]
    fn prefixes() {
        assert_eq!(super::name_prefix("j", 3), "j-3-");
        assert_eq!(super::name_prefix(&"x".repeat(63), 12).len(), 58);
    }
}
