// What tests/capi/scenario.c does, in C#. Scenario.exe MODEL LINES FOLDER
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using Retto;

static class Scenario
{
    const string Text = "lipstick stains on the [MASK]";

    static void Check(bool condition, string what)
    {
        if (!condition) throw new Exception("failed: " + what);
    }

    static void Raises(Status status, Action call)
    {
        try
        {
            call();
        }
        catch (RettoException error)
        {
            Check(error.Status == status && error.Message.Length > 0, status + " was expected, and it is " + error.Status);
            return;
        }
        throw new Exception(status + " was expected");
    }

    static string Answers(Model model)
    {
        var text = new StringBuilder();
        foreach (var fill in model.FillMask(Text)[0])
            text.AppendFormat(CultureInfo.InvariantCulture, "{0} {1:G9} {2}\n", fill.Token, fill.Score, fill.TokenStr);
        return text.ToString();
    }

    static void Disposed(Action call)
    {
        try
        {
            call();
        }
        catch (ObjectDisposedException)
        {
            return;
        }
        throw new Exception("ObjectDisposedException was expected");
    }

    /// A thread reads the model's texts while this one disposes of it.
    static void DisposedWhileItIsRead(Model model)
    {
        string wrong = null;
        var begun = new ManualResetEvent(false);
        var reader = new Thread(() =>
        {
            try
            {
                for (var read = 0; ; read++)
                {
                    string name = model.Name, mask = model.MaskToken;
                    if (name != "retto-tiny" || mask != "[MASK]") wrong = name + " " + mask;
                    if (read == 10) begun.Set();
                }
            }
            catch (ObjectDisposedException) { }
            catch (Exception error)
            {
                wrong = error.ToString();
            }
            begun.Set();
        });
        reader.Start();
        begun.WaitOne();
        model.Dispose();
        reader.Join();
        Check(wrong == null, "what is read of a model: " + wrong);
    }

    // Threads whose calls overlap have it in use without a pause.
    static void DisposedWhileItIsAsked(Model model)
    {
        var threads = Enumerable.Range(0, 4).Select(_ => new Thread(() =>
        {
            try
            {
                while (true) model.FillMask("the [MASK]");
            }
            catch (ObjectDisposedException)
            {
            }
        }) { IsBackground = true }).ToList();
        threads.ForEach(thread => thread.Start());
        Thread.Sleep(200);
        model.Dispose();
        threads.ForEach(thread => Check(thread.Join(20000), "a query of a model that was disposed"));
    }

    /// A run that nothing else ends: its callback waits until the trainer is disposed of, and tells it to go on.
    static void DisposedWhileItRuns(Trainer trainer)
    {
        TrainOutput output = null;
        ManualResetEvent begun = new ManualResetEvent(false), disposed = new ManualResetEvent(false);
        var worker = new Thread(() => output = trainer.Run(progress =>
        {
            if (progress.Kind != ProgressKind.Step) return true;
            begun.Set();
            disposed.WaitOne();
            return true;
        }));
        worker.Start();
        begun.WaitOne();
        trainer.Dispose();
        disposed.Set();
        worker.Join();
        Check(output.Cancelled && output.Steps == 1, "disposing of a trainer cancels its run");
        Disposed(trainer.Cancel);
        trainer.Dispose();
    }

    static void Main(string[] args)
    {
        string path = args[0], lines = args[1], folder = args[2];
        var heldOut = new[]
        {
            "the lights went down along the empty street and nobody called my name",
            "and you were gone before the morning came to take the night away",
            "I keep your letters in a drawer beside the bed and never read them",
        };
        int device;
        if (!int.TryParse(Environment.GetEnvironmentVariable("RETTO_DEVICE") ?? "", out device)) device = -1;
        using (var gpu = new Gpu(device))
        using (var model = Model.Open(gpu, path))
        {
            Check(Gpu.Adapters().Count > 0 && gpu.Adapter.Name.Length > 0 && gpu.MemoryInUse > 0, "adapters");
            Check(model.Name == "retto-tiny" && model.MaskToken == "[MASK]" && model.VocabSize > 1000, "info");
            var ofBase = Answers(model);
            // Its file is in f16: nothing is rounded, and sums are in the same order.
            using (var half = model.ToDtype(Dtype.Float16)) Check(Answers(half) == ofBase, "float16");
            using (var small = model.ToDtype(Dtype.Int8))
            using (var opened = Model.Open(gpu, path, Dtype.Int8))
            {
                Check(Answers(small) != ofBase && Answers(opened) == Answers(small), "int8");
                DisposedWhileItIsRead(opened);
                Disposed(() => opened.MaskToken.ToString());
            }
            var before = model.Evaluate(heldOut);

            Func<string, Trainer> newTrainer = output =>
            {
                var made = new Trainer(model, new TrainingOptions { MaxSteps = 20, LearningRate = 5e-4, OutputDir = output });
                Check(made.AddFile(lines) > 100, "lines");
                return made;
            };
            Model whole;
            using (var trainer = newTrainer(null))
            {
                Check(trainer.Run().Steps == 20, "in one go");
                whole = trainer.Model();
            }
            Check(Answers(whole) != ofBase, "adapted");

            using (var trainer = newTrainer(folder))
            {
                var cancelled = trainer.Run(progress => progress.Step != 7);
                Check(cancelled.Cancelled && cancelled.Steps == 7, "cancelled");
                Raises(Status.Cancelled, () => trainer.Step());
                Check(trainer.Resume() == 7, "resumed");
                while (trainer.Step().Step < 12) { }
                trainer.Checkpoint();
            }
            using (var trainer = newTrainer(folder))
            {
                Check(trainer.Resume() == 12, "taken up");
                TrainOutput output = null;
                var worker = new Thread(() => output = trainer.Run());
                worker.Start();
                Check(Answers(model) == ofBase, "the base meanwhile");
                worker.Join();
                Check(output.Steps == 20 && !output.Cancelled, "the rest");
                using (var resumed = trainer.Model()) Check(Answers(resumed) == Answers(whole), "the same bits");
                trainer.Save(Path.Combine(folder, "adapted"));
            }
            using (var saved = Model.Open(gpu, Path.Combine(folder, "adapted")))
            {
                Check(Answers(saved) == Answers(whole) && Answers(model) == ofBase, "saved");
                var after = saved.Evaluate(heldOut);
                var many = Enumerable.Repeat(heldOut[0], 1500).ToList();
                var told = new List<ulong>();
                Check(saved.Embed(many, null, (done, total) => { told.Add(done); return total == 1500; }).Count == 1500, "embedded");
                Check(told.Count >= 2 && told[0] < told[told.Count - 1], "told of what is done");
                Raises(Status.Cancelled, () => saved.Embed(many, null, (done, total) => false));
                try
                {
                    saved.Evaluate(many, (done, total) => { throw new InvalidOperationException("mine"); });
                    Check(false, "it was to throw");
                }
                catch (OperationCanceledException error)
                {
                    Check(error.InnerException is InvalidOperationException, "what the callback threw");
                }
                Check(after.MaskedTokens == before.MaskedTokens && after.Loss != before.Loss, "evaluated");
            }
            using (var trainer = newTrainer(null))
            {
                try
                {
                    trainer.Run(progress =>
                    {
                        if (progress.Kind == ProgressKind.Step) throw new InvalidOperationException("mine");
                        return true;
                    });
                    Check(false, "it was to throw");
                }
                catch (OperationCanceledException error)
                {
                    Check(error.InnerException.Message == "mine", "what a callback throws");
                }
                Check(trainer.Resume() == 1, "after what was thrown");
            }
            DisposedWhileItRuns(newTrainer(null));
            DisposedWhileItIsAsked(Model.Open(gpu, args[0]));
            var lora = new TrainingOptions
            {
                MaxSteps = 2, LoraR = 2, LoraTargetModules = new[] { "query" }, LrSchedulerType = SchedulerType.Constant,
            };
            using (var trainer = new Trainer(model, lora))
            {
                trainer.AddLines(heldOut);
                var output = trainer.Run();
                Check(output.Steps == 2 && output.Tokens > 0 && output.Samples > 0 && !output.StoppedEarly, "a low-rank adaptation");
                trainer.SaveAdapter(Path.Combine(folder, "adapter"), "retto-tiny");
                using (var adapted = Model.Open(gpu, args[0], Path.Combine(folder, "adapter")))
                using (var trained = trainer.Model()) Check(Answers(adapted) == Answers(trained), "an adapter, saved");
            }
            var first = model.FillMask(Text)[0][0];
            var gold = model.RankGold(Text, first.TokenStr);
            Check(gold.Rank == 1 && gold.Token == first.Token && gold.Score == first.Score, "the first is the first");
            Check(model.HasMlmHead && model.HiddenSize == 128 && model.MaxPositionEmbeddings > 0, "what a model says");
            var other = model.Evaluate(heldOut, null, new EvaluationOptions { Seed = 7, MlmProbability = 0.3 });
            Check(other.MaskedTokens > before.MaskedTokens, "another evaluation");
            Check(model.Embed(heldOut, new EmbedOptions { MaxSeqLength = 5 }).Truncated == 3, "what was cut");
            var none = new TrainingOptions { LoraTargetModules = null, FreezeLayers = null, Devices = null };
            using (var trainer = new Trainer(model, none))
            {
                trainer.AddLines(heldOut);
                var at = trainer.Step();
                Check(at.Tokens > 0 && at.GradNorm > 0 && at.EvalMaskedTokens == 0 && at.Path == null, "a step");
                trainer.Cancel();
                try
                {
                    trainer.Step();
                    Check(false, "it was cancelled");
                }
                catch (RettoException error)
                {
                    Check(error.Status == Status.Cancelled && error.Progress.Step == 1, "where it stands");
                }
            }
            gpu.Trim();
            var listed = Gpu.Adapters().Single(one => one.Index == gpu.Adapter.Index);
            Check(listed.Type == gpu.Adapter.Type && listed.MaxBufferSize > 0 && listed.Name == gpu.Adapter.Name, "an adapter");
            using (var second = new Gpu())
            using (var trainer = new Trainer(model, new TrainingOptions { MaxSteps = 2, Devices = new[] { second } }))
            {
                trainer.AddLines(heldOut);
                Check(trainer.Run().Steps == 2, "two devices");
            }
            lora.LoraTargetModules = new[] { "nothing" };
            Raises(Status.InvalidArgument, () => new Trainer(model, lora));
            Raises(Status.InvalidArgument, () => new Trainer(model, new TrainingOptions { FreezeLayers = new[] { 0, 99 } }));
            var vectors = model.Embed(new[] { "the rain\nand you", "the rain" }, EmbedOptions.Open(args[0]));
            Check(vectors.Count == 2 && !vectors[0].SequenceEqual(vectors[1]), "two vectors");
            Check(model.Embed(new[] { "the rain" })[0].SequenceEqual(vectors[1]), "a batch is its texts alone");
            Check(model.Embed(new string[0]).Count == 0, "no text");
            var strict = new EmbedOptions { MaxSeqLength = 3, Strict = true };
            Raises(Status.TooLong, () => model.Embed(new[] { "the rain and you" }, strict));
            Raises(Status.Io, () => Model.Open(gpu, "no/such/folder"));
            Raises(Status.InvalidArgument, () => new Gpu(-2));
            var negative = new TrainingOptions { FreezeLayers = new[] { -1 } };
            Raises(Status.InvalidArgument, () => new Trainer(model, negative));
            Raises(Status.NoMask, () => model.FillMask("no blank"));
            Raises(Status.InvalidArgument, () => new Trainer(model, new TrainingOptions { LearningRate = -1 }));
            Console.Write(ofBase + "--\n" + Answers(whole));
            whole.Dispose();
        }
    }
}
