//! Which of a machine's GPUs a replica can see, by the lists that CUDA, NVIDIA's container runtime and people write.
//! Knows no library: it picks from what was found.

/// A GPU, or one part of a GPU in MIG mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub uuid: String,
    /// The UUID of the whole GPU; its own where it is whole.
    pub gpu_uuid: String,
    pub gpu_index: u32,
    pub mig_index: Option<u32>,
}

/// One list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum List {
    All,
    None,
    Names(Vec<String>),
}

/// The rule for one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// What a person said, or NVIDIA_VISIBLE_DEVICES.
    outer: List,
    /// NVIDIA_VISIBLE_DEVICES counts the host's GPUs, but a container is shown only its own.
    outer_is_of_the_host: bool,
    /// CUDA_VISIBLE_DEVICES, which counts what is left by `outer`.
    inner: List,
    is_asked_for: bool,
}

impl Visible {
    /// A person's list stands alone; the other two narrow each other. Where CUDA_VISIBLE_DEVICES has indexes, they
    /// count in the order of the PCI bus (as CUDA does with CUDA_DEVICE_ORDER=PCI_BUS_ID, or where all GPUs are alike).
    pub fn new(person: Option<&str>, cuda: Option<&str>, nvidia: Option<&str>) -> Self {
        let is_asked_for = person.is_some() || nvidia.is_some_and(|list| !list.is_empty());
        if let Some(person) = person {
            return Self {
                outer: list(person),
                outer_is_of_the_host: false,
                inner: List::All,
                is_asked_for,
            };
        }
        Self {
            outer: match nvidia {
                // `void` is what the container device interface leaves behind: the devices were chosen by other means.
                None | Some("" | "void") => List::All,
                Some(nvidia) => list(nvidia),
            },
            outer_is_of_the_host: true,
            inner: cuda.map_or(List::All, list),
            is_asked_for,
        }
    }

    /// No GPU whatever the machine has.
    pub fn is_none(&self) -> bool {
        self.outer == List::None || self.inner == List::None
    }

    /// Somebody expects GPUs here, so that a machine without a driver is worth a warning.
    pub fn is_asked_for(&self) -> bool {
        self.is_asked_for && !self.is_none()
    }

    /// The candidates that the replica can see.
    pub fn pick(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let outer = match &self.outer {
            List::Names(names)
                if self.outer_is_of_the_host && is_cut_already(names, candidates) =>
            {
                candidates.to_vec()
            }
            outer => pick(outer, candidates),
        };
        pick(&self.inner, &outer)
    }
}

/// Indexes of the host mean nothing in a container that is shown as many GPUs as were asked for, counted anew.
fn is_cut_already(names: &[String], candidates: &[Candidate]) -> bool {
    let mut gpus: Vec<_> = candidates.iter().map(|c| c.gpu_index).collect();
    gpus.dedup();
    names.len() == gpus.len() && names.iter().all(|name| name.parse::<u32>().is_ok())
}

fn list(text: &str) -> List {
    let text = text.trim();
    match text {
        "all" => List::All,
        "" | "none" | "-1" | "NoDevFiles" => List::None,
        _ => List::Names(text.split(',').map(|name| name.trim().to_owned()).collect()),
    }
}

fn pick(list: &List, candidates: &[Candidate]) -> Vec<Candidate> {
    let names = match list {
        List::All => return candidates.to_vec(),
        List::None => return Vec::new(),
        List::Names(names) => names,
    };
    let mut picked: Vec<Candidate> = Vec::new();
    for name in names {
        let found = named(name, candidates);
        // As CUDA has it: what stands behind a name that is none is not visible.
        if found.is_empty() {
            break;
        }
        for candidate in found {
            if !picked.contains(candidate) {
                picked.push(candidate.clone());
            }
        }
    }
    picked
}

/// `INDEX`, `INDEX:MIG`, or a UUID, of which the beginning is enough. A whole GPU in MIG mode means all its parts.
fn named<'a>(name: &str, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let all = |holds: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|c| holds(c)).collect();
    if let Ok(index) = name.parse::<usize>() {
        let mut gpus: Vec<_> = candidates.iter().map(|c| c.gpu_index).collect();
        gpus.dedup();
        return match gpus.get(index) {
            Some(&gpu) => all(&|c| c.gpu_index == gpu),
            None => Vec::new(),
        };
    }
    if let Some((gpu, mig)) = name.split_once(':') {
        return match (gpu.parse::<u32>(), mig.parse::<u32>()) {
            (Ok(gpu), Ok(mig)) => all(&|c| c.gpu_index == gpu && c.mig_index == Some(mig)),
            _ => Vec::new(),
        };
    }
    if !(name.starts_with("GPU-") || name.starts_with("MIG-")) {
        return Vec::new();
    }
    all(&|c| c.uuid.starts_with(name) || c.gpu_uuid.starts_with(name))
}

#[cfg(test)]
mod tests;
