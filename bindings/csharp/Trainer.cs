using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;

namespace Retto
{
    /// <summary>Options of a run, with the names and defaults of transformers' TrainingArguments. What is null or 0 where that
    /// makes no sense is off; see retto_training_options in retto.h.</summary>
    public sealed class TrainingOptions
    {
        public double NumTrainEpochs = 3;
        public ulong MaxSteps;
        public double LearningRate = 5e-5;
        public SchedulerType LrSchedulerType = SchedulerType.Linear;
        public double WarmupRatio;
        public double WeightDecay;
        public double AdamBeta1 = 0.9;
        public double AdamBeta2 = 0.999;
        public double AdamEpsilon = 1e-8;
        public double MaxGradNorm = 1;
        public double MlmProbability = 0.15;
        public double MaskReplaceProb = 0.8;
        public double RandomReplaceProb = 0.1;
        public bool WholeWordMask;
        public uint PerDeviceTrainBatchSize = 8;
        public uint BatchTokens;
        public bool GroupByLength;
        public uint GradientAccumulationSteps = 1;
        public uint PerDeviceEvalBatchSize = 8;
        public uint MaxSeqLength;
        public bool FreezeEmbeddings;
        public int[] FreezeLayers = new int[0];
        public uint LoraR;
        public double LoraAlpha = 8;
        /// <summary>Empty: query and value.</summary>
        public string[] LoraTargetModules = new string[0];
        public bool GradientCheckpointing;
        public bool Dropout = true;
        public bool Fp16;
        public ulong EvalSteps;
        public ulong EarlyStoppingPatience;
        public double EarlyStoppingThreshold;
        public bool LoadBestModelAtEnd;
        public ulong LoggingSteps = 500;
        public ulong Seed = 42;
        public string OutputDir;
        public ulong SaveSteps;
        public uint SaveTotalLimit;
        /// <summary>Others that train together with the model's own.</summary>
        public Gpu[] Devices = new Gpu[0];
        public ulong DdpTimeout = 1800;
    }

    public enum SchedulerType { Linear = 0, Cosine = 1, Constant = 2, ConstantWithWarmup = 3 }

    /// <summary>Later versions may have others.</summary>
    public enum ProgressKind { Step = 0, Log = 1, Evaluated = 2, Saved = 3, Evaluating = 4, Preparing = 5 }

    /// <summary>Where a run stands; what does not belong to its kind is 0.</summary>
    public sealed class Progress
    {
        public ProgressKind Kind { get; }
        public ulong Step { get; }
        public ulong MaxSteps { get; }
        public double Epoch { get; }
        public double Loss { get; }
        public double GradNorm { get; }
        public double LearningRate { get; }
        public ulong Tokens { get; }
        public ulong MaskedTokens { get; }
        public double TokensPerSecond { get; }
        public double SecondsLeft { get; }
        public double EvalLoss { get; }
        public double EvalTop1 { get; }
        public double EvalTop10 { get; }
        /// <summary>0: nothing was evaluated.</summary>
        public ulong EvalMaskedTokens { get; }
        /// <summary>The checkpoint's folder; else null.</summary>
        public string Path { get; }
        public bool IsOver { get; }
        /// <summary>Of an evaluation that is going on: batches so far, and in all.</summary>
        public ulong Done { get; }
        public ulong Total { get; }

        internal Progress(Native.Progress progress)
        {
            Kind = (ProgressKind)progress.kind;
            Step = progress.step;
            MaxSteps = progress.maxSteps;
            Epoch = progress.epoch;
            Loss = progress.loss;
            GradNorm = progress.gradNorm;
            Tokens = progress.tokens;
            MaskedTokens = progress.maskedTokens;
            LearningRate = progress.learningRate;
            TokensPerSecond = progress.tokensPerSecond;
            SecondsLeft = progress.secondsLeft;
            EvalLoss = progress.evalLoss;
            EvalTop1 = progress.evalTop1;
            EvalTop10 = progress.evalTop10;
            EvalMaskedTokens = progress.evalMaskedTokens;
            Path = progress.path == IntPtr.Zero ? null : Native.Text(progress.path);
            IsOver = progress.isOver != 0;
            Done = progress.done;
            Total = progress.total;
        }
    }

    /// <summary>What a run came to.</summary>
    public sealed class TrainOutput
    {
        public bool Cancelled { get; internal set; }
        public bool StoppedEarly { get; internal set; }
        public ulong Steps { get; internal set; }
        public double Epoch { get; internal set; }
        public ulong Samples { get; internal set; }
        public ulong Tokens { get; internal set; }
        /// <summary>Lines that were too long, and cut.</summary>
        public ulong Truncated { get; internal set; }
        public double BestLoss { get; internal set; }
        /// <summary>0: no evaluation was the best.</summary>
        public ulong BestStep { get; internal set; }
        public double TrainLoss { get; internal set; }
        public double Runtime { get; internal set; }
    }

    public enum Split { Train = 0, Validation = 1 }

    /// <summary>A copy of a model in training. One thread at a time may use it, but for <see cref="Cancel"/>.</summary>
    public sealed class Trainer : IDisposable
    {
        private readonly TrainerHandle handle;

        public Trainer(Model model, TrainingOptions wanted = null)
        {
            wanted = wanted ?? new TrainingOptions();
            var options = new Native.TrainingOptions();
            Native.Check(Native.retto_training_options_init(ref options, Native.Size<Native.TrainingOptions>()));
            options.numTrainEpochs = wanted.NumTrainEpochs;
            options.maxSteps = wanted.MaxSteps;
            options.learningRate = wanted.LearningRate;
            options.lrSchedulerType = (uint)wanted.LrSchedulerType;
            options.warmupRatio = wanted.WarmupRatio;
            options.adamBeta1 = wanted.AdamBeta1;
            options.adamBeta2 = wanted.AdamBeta2;
            options.adamEpsilon = wanted.AdamEpsilon;
            options.maxGradNorm = wanted.MaxGradNorm;
            options.maskReplaceProb = wanted.MaskReplaceProb;
            options.randomReplaceProb = wanted.RandomReplaceProb;
            options.batchTokens = wanted.BatchTokens;
            options.groupByLength = wanted.GroupByLength ? 1u : 0u;
            options.perDeviceEvalBatchSize = wanted.PerDeviceEvalBatchSize;
            options.earlyStoppingPatience = wanted.EarlyStoppingPatience;
            options.earlyStoppingThreshold = wanted.EarlyStoppingThreshold;
            options.loadBestModelAtEnd = wanted.LoadBestModelAtEnd ? 1u : 0u;
            options.loggingSteps = wanted.LoggingSteps;
            options.weightDecay = wanted.WeightDecay;
            options.mlmProbability = wanted.MlmProbability;
            options.wholeWordMask = wanted.WholeWordMask ? 1u : 0u;
            options.perDeviceTrainBatchSize = wanted.PerDeviceTrainBatchSize;
            options.gradientAccumulationSteps = wanted.GradientAccumulationSteps;
            options.maxSeqLength = wanted.MaxSeqLength;
            options.freezeEmbeddings = wanted.FreezeEmbeddings ? 1u : 0u;
            options.loraR = wanted.LoraR;
            options.loraAlpha = wanted.LoraAlpha;
            options.gradientCheckpointing = wanted.GradientCheckpointing ? 1u : 0u;
            options.dropout = wanted.Dropout ? 1u : 0u;
            options.fp16 = wanted.Fp16 ? 1u : 0u;
            options.evalSteps = wanted.EvalSteps;
            options.seed = wanted.Seed;
            options.saveSteps = wanted.SaveSteps;
            options.saveTotalLimit = wanted.SaveTotalLimit;
            options.ddpTimeout = wanted.DdpTimeout;
            var frozen = wanted.FreezeLayers ?? new int[0];
            var gpus = wanted.Devices ?? new Gpu[0];
            var others = new IntPtr[gpus.Length];
            for (int i = 0; i < others.Length; i++) others[i] = gpus[i].Handle.DangerousGetHandle();
            using (var folder = new Utf8(wanted.OutputDir))
            using (var targets = new Utf8List(wanted.LoraTargetModules ?? new string[0]))
            {
                // Pinned while the library reads them.
                var names = GCHandle.Alloc(targets.Strings, GCHandleType.Pinned);
                var layers = GCHandle.Alloc(frozen, GCHandleType.Pinned);
                var devices = GCHandle.Alloc(others, GCHandleType.Pinned);
                try
                {
                    options.freezeLayers = layers.AddrOfPinnedObject();
                    options.freezeLayersCount = (UIntPtr)(uint)frozen.Length;
                    options.devices = devices.AddrOfPinnedObject();
                    options.devicesCount = (UIntPtr)(uint)others.Length;
                    options.loraTargetModules = names.AddrOfPinnedObject();
                    options.loraTargetModulesCount = targets.Count;
                    options.outputDir = folder.Data;
                    options.outputDirLength = folder.Length;
                    TrainerHandle made = null;
                    Native.Call((out IntPtr e) => Native.retto_trainer_new(model.Handle, ref options, out made, out e));
                    handle = made;
                }
                finally
                {
                    names.Free();
                    layers.Free();
                    devices.Free();
                    // Their handles were used as numbers.
                    GC.KeepAlive(gpus);
                }
            }
        }

        /// <summary>Adds lines, each an example.</summary>
        public void AddLines(IReadOnlyList<string> lines, Split split = Split.Train)
        {
            using (var given = new Utf8List(lines))
                Native.Call((out IntPtr e) =>
                    Native.retto_trainer_add_lines(handle, (uint)split, given.Strings, given.Count, out e));
        }

        /// <summary>Adds the lines of a file or folder, and returns how many they are.</summary>
        public ulong AddFile(string path, Split split = Split.Train)
        {
            var count = UIntPtr.Zero;
            using (var file = new Utf8(path))
                Native.Call((out IntPtr e) =>
                    Native.retto_trainer_add_file(handle, (uint)split, file.Data, file.Length, out count, out e), handle);
            return (ulong)count;
        }

        /// <summary>Trains until it is over or cancelled. The callback is told of every step on this thread, and cancels by
        /// returning false; what it throws cancels, too, and is thrown here.</summary>
        public TrainOutput Run(Func<Progress, bool> progress = null)
        {
            var told = new Told { Progress = progress };
            var output = new Native.TrainOutput { structSize = (uint)Native.Size<Native.TrainOutput>() };
            IntPtr place;
            Status status;
            Ending.Enter(handle);
            var data = GCHandle.Alloc(told);
            try
            {
                status = Native.retto_trainer_run(handle, progress == null ? null : callback, GCHandle.ToIntPtr(data),
                    ref output, out place);
            }
            finally
            {
                data.Free();
                Ending.Leave(handle);
            }
            var message = Native.Take(place);
            var thrown = told.Thrown;
            if (thrown != null) throw new OperationCanceledException("the callback threw: " + thrown.Message, thrown);
            if (status != Status.Ok && !(status == Status.Cancelled && output.cancelled != 0))
                throw new RettoException(status, message);
            return new TrainOutput
            {
                Cancelled = output.cancelled != 0,
                StoppedEarly = output.stoppedEarly != 0,
                Steps = output.steps,
                Epoch = output.epoch,
                Samples = output.samples,
                Tokens = output.tokens,
                Truncated = output.truncated,
                BestLoss = output.bestLoss,
                BestStep = output.bestStep,
                TrainLoss = output.trainLoss,
                Runtime = output.runtime,
            };
        }

        private sealed class Told
        {
            public Func<Progress, bool> Progress;
            public Exception Thrown;
        }

        /// <summary>Kept here, so that it is not collected while C has it.</summary>
        private static readonly Native.ProgressCallback callback = Tell;

        /// <summary>Static, with everything else behind the pointer: code that was compiled ahead of time has no other
        /// functions for C to call.</summary>
        [MonoPInvokeCallback(typeof(Native.ProgressCallback))]
        private static int Tell(IntPtr at, IntPtr data)
        {
            Told told = null;
            try
            {
                // No exception may pass through C.
                told = (Told)GCHandle.FromIntPtr(data).Target;
                var progress = (Native.Progress)Marshal.PtrToStructure(at, typeof(Native.Progress));
                return told.Progress(new Progress(progress)) ? 0 : 1;
            }
            catch (Exception error)
            {
                if (told != null) told.Thrown = error;
                return 1;
            }
        }

        /// <summary>One optimizer step, and what is due after it. The exception of one that was cancelled has it, too.</summary>
        public Progress Step()
        {
            var progress = new Native.Progress { structSize = (uint)Native.Size<Native.Progress>() };
            try
            {
                Native.Call((out IntPtr error) => Native.retto_trainer_step(handle, ref progress, out error));
            }
            catch (RettoException error) when (error.Status == Status.Cancelled)
            {
                error.Progress = new Progress(progress);
                throw;
            }
            return new Progress(progress);
        }

        /// <summary>Ends the present run after its step. From any thread.</summary>
        public void Cancel() => Native.Call((out IntPtr error) => Native.retto_trainer_cancel(handle, out error));

        /// <summary>Lets a cancelled trainer go on, or a new one from the latest checkpoint. Returns the step.</summary>
        public ulong Resume()
        {
            ulong step = 0;
            Native.Call((out IntPtr error) => Native.retto_trainer_resume(handle, out step, out error));
            return step;
        }

        /// <summary>Writes a checkpoint to OutputDir.</summary>
        public void Checkpoint() => Native.Call((out IntPtr error) => Native.retto_trainer_checkpoint(handle, out error));

        /// <summary>The model as trained so far: a copy.</summary>
        public Model Model()
        {
            ModelHandle model = null;
            Native.Call((out IntPtr error) => Native.retto_trainer_model(handle, out model, out error));
            return new Model(model);
        }

        /// <summary>Writes the model as trained so far.</summary>
        public void Save(string path)
        {
            using (var folder = new Utf8(path))
                Native.Call((out IntPtr e) => Native.retto_trainer_save(handle, folder.Data, folder.Length, out e));
        }

        /// <summary>Writes a low-rank adaptation alone, in PEFT's format; baseModel is what that says it is for.</summary>
        public void SaveAdapter(string path, string baseModel = "")
        {
            using (var folder = new Utf8(path))
            using (var of = new Utf8(baseModel))
                Native.Call((out IntPtr e) => Native.retto_trainer_save_adapter(handle, folder.Data, folder.Length, of.Data, of.Length,
                    out e));
        }

        /// <summary>Frees it; what was not saved is lost. A run of another thread is cancelled, and all is freed when
        /// it has returned.</summary>
        public void Dispose()
        {
            try
            {
                // While the handle is open: the run keeps it, but nobody could cancel the run any more.
                IntPtr error;
                Native.retto_trainer_cancel(handle, out error);
                Native.Take(error);
            }
            catch (ObjectDisposedException)
            {
                // It was disposed of before.
            }
            handle.Dispose();
        }
    }
}
