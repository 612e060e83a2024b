//! Several sessions of one model that go on together: weights are read once for a token of each.

mod generate;

use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{HalError, Reason};
use thiserror::Error;

use crate::exec::{self, Executor, Program, Put, Room, step_together};
use crate::{Executed, LoadedModel, RuntimeError, Session, TokenId};

/// Why the tokens of several sessions don't go in by one run, but session by session.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Apart {
    /// There is nothing to go together.
    #[error("there are {sessions} sessions; two or more go together")]
    Few {
        /// How many there are.
        sessions: usize,
    },
    /// A device failed in one session and not in another, or one has a longer context than was compiled for.
    #[error("session {session} runs another program than session {first}")]
    Programs {
        /// One session's number.
        first: usize,
        /// Another's.
        session: usize,
    },
    /// The plan's steps have fixed numbers of tokens, which follow one another.
    #[error("steps of the plan have fixed sizes ({sizes:?}); together go those of any size")]
    FixedSizes {
        /// The sizes.
        sizes: Vec<u32>,
    },
    /// Several devices, or one several times, run a step.
    #[error("a step is {} segments, on {}; together goes one segment", devices.len(), devices.join(", "))]
    Segments {
        /// The device of each segment.
        devices: Vec<String>,
    },
    /// The device does not run several sequences at once.
    #[error("device '{device}' does not run several sequences at once: {reason}")]
    Device {
        /// The device.
        device: String,
        /// Its reason.
        reason: Reason,
    },
    /// A run of several sessions failed where each may run by itself.
    #[error("running several sessions at once failed: {why}")]
    Failed {
        /// What was seen then.
        why: String,
    },
}

/// How the tokens of a batch went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSteps {
    /// Runs that put tokens of several sessions in.
    pub together: u64,
    /// Tokens that they put in.
    pub tokens_together: u64,
    /// Tokens that went in by a run of their own.
    pub tokens_alone: u64,
}

/// Sessions of one [`LoadedModel`] that go on together.
///
/// [`Batch::decode`] puts one token of each in. Where the plan allows it ([`Batch::together`]), one run
/// takes all of them, so that weights are read once; where it doesn't, each goes in by itself. Either
/// way the logits of each session are those it would have alone: on a device that runs several sequences at
/// once, bit for bit.
///
/// A run of several is counted on the first of its sessions; the others count a token that was
/// [carried](crate::Executed::carried).
#[derive(Debug, Default)]
pub struct Batch {
    members: Vec<Member>,
    room: Room,
    /// The program that was looked at last, and how many go together in it.
    verdict: Option<(Arc<Program>, Result<usize, Apart>)>,
    steps: BatchSteps,
}

#[derive(Debug)]
struct Member {
    session: Session,
    /// What is to be put in.
    put: Option<TokenId>,
}

impl exec::Member for Member {
    fn part(&mut self) -> Option<(&mut Executor, Put)> {
        let token = self.put?;
        // no more tokens are put in than the context holds
        let position = self.session.tokens.len() as u32;
        Some((self.session.runner.executor_mut(), Put { token, position }))
    }
}

impl Batch {
    /// A batch of `sessions`, numbered as they are given.
    ///
    /// # Errors
    /// [`RuntimeError::OtherModel`] unless all are of one [`LoadedModel`].
    pub fn new(sessions: Vec<Session>) -> Result<Self, RuntimeError> {
        let mut batch = Batch {
            members: Vec::with_capacity(sessions.len()),
            ..Batch::default()
        };
        for session in sessions {
            batch.push(session)?;
        }
        Ok(batch)
    }

    /// Adds a session and gives its number: the last.
    ///
    /// # Errors
    /// [`RuntimeError::OtherModel`] if it is of another model than the others; it is dropped then.
    pub fn push(&mut self, session: Session) -> Result<usize, RuntimeError> {
        if let Some(first) = self.members.first().map(|m| &m.session)
            && !first.model().is(session.model())
        {
            let name = |s: &Session| s.model().info().name.clone();
            return Err(RuntimeError::OtherModel {
                session: self.members.len(),
                found: name(&session),
                expected: name(first),
            });
        }
        self.members.push(Member { session, put: None });
        Ok(self.members.len() - 1)
    }

    /// Takes a session out; those after it move up by one. `None` if there is none of that number.
    pub fn remove(&mut self, number: usize) -> Option<Session> {
        let there = number < self.members.len();
        there.then(|| self.members.remove(number).session)
    }

    /// The sessions.
    pub fn into_sessions(self) -> Vec<Session> {
        self.members.into_iter().map(|m| m.session).collect()
    }

    /// The sessions.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.members.iter().map(|m| &m.session)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A session. `None` if there is none of that number.
    pub fn session(&self, number: usize) -> Option<&Session> {
        self.members.get(number).map(|m| &m.session)
    }

    /// A session, for whatever it does by itself: reading a prompt, forgetting tokens.
    pub fn session_mut(&mut self, number: usize) -> Option<&mut Session> {
        self.members.get_mut(number).map(|m| &mut m.session)
    }

    /// The model, if there is a session.
    pub fn model(&self) -> Option<&LoadedModel> {
        self.members.first().map(|m| m.session.model())
    }

    /// How tokens went in so far.
    pub fn steps(&self) -> BatchSteps {
        self.steps
    }

    /// What its sessions executed since they were opened, all together.
    pub fn executed(&self) -> Executed {
        let each = self.sessions().map(Session::executed);
        each.fold(Executed::default(), Executed::and)
    }

    /// Whether a token of every session would go in by one run (or by a few, where there are more sessions
    /// than one takes), and if not, why.
    ///
    /// # Errors
    /// The reason.
    pub fn together(&self) -> Result<(), Apart> {
        let program = one_program(&self.members, |_| true)?;
        match &self.verdict {
            Some((known, verdict)) if Arc::ptr_eq(known, program) => verdict.clone(),
            _ => program.together(),
        }
        .map(|_| ())
    }

    /// Puts one token in for each session that has one in `tokens`. Afterwards [`Session::logits`] of
    /// these are those after it. Allocates nothing once all sizes were seen.
    ///
    /// # Errors
    /// As many `tokens` as there are sessions are needed. As [`Session::decode`] for any of them: nothing is
    /// put in if a token doesn't exist or doesn't fit; if a device fails that no other makes good, the
    /// tokens of some sessions are in, as their [`Session::tokens`] tell, and every other goes on where it was.
    pub fn decode(&mut self, tokens: &[Option<TokenId>]) -> Result<(), RuntimeError> {
        if tokens.len() != self.members.len() {
            return Err(RuntimeError::Option {
                option: "the number of tokens of a batch",
                found: tokens.len().to_string(),
                expected: format!("{}, one for each session", self.members.len()),
            });
        }
        for (member, token) in self.members.iter_mut().zip(tokens) {
            member.put = None;
            if let Some(token) = *token {
                member.session.check_next(token)?;
            }
        }
        for (member, token) in self.members.iter_mut().zip(tokens) {
            if token.is_some() {
                member.session.wake(None)?;
                member.session.settle()?;
                member.put = *token;
            }
        }
        let most = self.most();
        let mut from = 0;
        while let Some(group) = self.group(from, most) {
            from = group.end;
            self.put_in(group)?;
        }
        Ok(())
    }

    /// How many of the sessions that have a token go in by one run.
    fn most(&mut self) -> usize {
        let Ok(program) = one_program(&self.members, |m| m.put.is_some()) else {
            return 1;
        };
        if let Some((known, verdict)) = &self.verdict
            && Arc::ptr_eq(known, program)
        {
            return *verdict.as_ref().unwrap_or(&1);
        }
        let (program, verdict) = (program.clone(), program.together());
        let most = *verdict.as_ref().unwrap_or(&1);
        if let Err(apart) = &verdict {
            tracing::info!("sessions of a batch go on one by one: {apart}");
        }
        self.verdict = Some((program, verdict));
        most
    }

    /// The next sessions from `from` on of which `most` have a token.
    fn group(&self, from: usize, most: usize) -> Option<Range<usize>> {
        let (mut first, mut end, mut count) = (None, from, 0);
        for (at, member) in self.members.iter().enumerate().skip(from) {
            if member.put.is_none() {
                continue;
            }
            if count == most.max(1) {
                break;
            }
            first.get_or_insert(at);
            (end, count) = (at + 1, count + 1);
        }
        Some(first?..end)
    }

    /// Puts the tokens of a group in: together, or, if there is one or that fails, each by itself.
    fn put_in(&mut self, group: Range<usize>) -> Result<(), RuntimeError> {
        let members = &mut self.members[group];
        let count = members.iter().filter(|m| m.put.is_some()).count();
        if count > 1 {
            match step_together(members, &mut self.room) {
                Ok(()) => {
                    for member in &mut *members {
                        if let Some(token) = member.put.take() {
                            member.session.took(token);
                        }
                    }
                    self.steps.together += 1;
                    self.steps.tokens_together += count as u64;
                    return Ok(());
                }
                Err(failure) => {
                    if let Some((_, verdict)) = &mut self.verdict
                        && !matches!(failure, RuntimeError::Abandoned { .. })
                    {
                        let why = failure.to_string();
                        tracing::warn!("sessions of a batch go on one by one: {why}");
                        *verdict = Err(Apart::Failed { why });
                    }
                    survive(members, &failure)?;
                }
            }
        }
        for member in members {
            if let Some(token) = member.put.take() {
                member.session.decode(token)?;
                self.steps.tokens_alone += 1;
            }
        }
        Ok(())
    }
}

/// Where a run of several was not seen to end, no memory that it uses is used again: each session moves
/// away, even if another can't. After any other failure each can try by itself.
fn survive(members: &mut [Member], failure: &RuntimeError) -> Result<(), RuntimeError> {
    let RuntimeError::Step {
        device,
        nodes,
        source: source @ HalError::Timeout { .. },
    } = failure
    else {
        return Ok(());
    };
    let moved = members.iter_mut().filter(|m| m.put.is_some()).map(|m| {
        m.session.survive(RuntimeError::Step {
            device: device.clone(),
            nodes: nodes.clone(),
            source: source.clone(),
        })
    });
    moved.fold(Ok(()), Result::and)
}

/// The program that all of the sessions run that are looked at.
fn one_program(
    members: &[Member],
    looked_at: impl Fn(&Member) -> bool,
) -> Result<&Arc<Program>, Apart> {
    let looked_at = members.iter().enumerate().filter(|(_, m)| looked_at(m));
    let mut programs = looked_at.map(|(number, m)| (number, m.session.runner.program()));
    let few = |sessions| Apart::Few { sessions };
    let (first, program) = programs.next().ok_or_else(|| few(0))?;
    let mut several = false;
    for (session, other) in programs {
        if !Arc::ptr_eq(program, other) {
            return Err(Apart::Programs { first, session });
        }
        several = true;
    }
    several.then_some(program).ok_or_else(|| few(1))
}
