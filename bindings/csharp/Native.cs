// The C library's functions and structs, as retto.h declares them.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace Retto
{
    /// <summary>Frees what the library made, also where nobody does.</summary>
    internal abstract class Handle : SafeHandle
    {
        protected Handle() : base(IntPtr.Zero, true) { }
        public override bool IsInvalid => handle == IntPtr.Zero;
    }

    internal sealed class AdaptersHandle : Handle
    {
        protected override bool ReleaseHandle() => Native.retto_adapters_free(handle) == Status.Ok;
    }

    internal sealed class GpuHandle : Handle
    {
        protected override bool ReleaseHandle() => Native.retto_gpu_free(handle) == Status.Ok;
    }

    internal sealed class ModelHandle : Handle
    {
        protected override bool ReleaseHandle() => Native.retto_model_free(handle) == Status.Ok;
    }

    internal sealed class FillsHandle : Handle
    {
        protected override bool ReleaseHandle() => Native.retto_fills_free(handle) == Status.Ok;
    }

    internal sealed class EmbeddingsHandle : Handle
    {
        protected override bool ReleaseHandle() => Native.retto_embeddings_free(handle) == Status.Ok;
    }

    internal sealed class TrainerHandle : Handle
    {
        // A call that runs keeps a SafeHandle alive, so that this comes after it.
        protected override bool ReleaseHandle() => Native.retto_trainer_free(handle) == Status.Ok;
    }

    /// <summary>Keeps what the library made while texts that live as long are read: another thread may dispose of it
    /// meanwhile, or the garbage collector, for which it is not in use any more.</summary>
    internal sealed class Held : IDisposable
    {
        private readonly SafeHandle handle;
        private bool held;

        public Held(SafeHandle handle)
        {
            this.handle = handle;
            handle.DangerousAddRef(ref held);
        }

        public void Dispose()
        {
            if (held) handle.DangerousRelease();
            held = false;
        }
    }

    /// <summary>Marks what C may call. Unity's IL2CPP and Mono's compiler ahead of time know it by its name.</summary>
    [AttributeUsage(AttributeTargets.Method)]
    internal sealed class MonoPInvokeCallbackAttribute : Attribute
    {
        public MonoPInvokeCallbackAttribute(Type type) { }
    }

    /// <summary>A string as UTF-8 in unmanaged memory; NULL for null.</summary>
    internal sealed class Utf8 : IDisposable
    {
        public IntPtr Data { get; private set; }
        public UIntPtr Length { get; }

        public Utf8(string text)
        {
            if (text == null) return;
            var bytes = Encoding.UTF8.GetBytes(text);
            Data = Marshal.AllocHGlobal(bytes.Length + 1);
            Marshal.Copy(bytes, 0, Data, bytes.Length);
            Marshal.WriteByte(Data, bytes.Length, 0);
            Length = (UIntPtr)(uint)bytes.Length;
        }

        public void Dispose()
        {
            Marshal.FreeHGlobal(Data);
            Data = IntPtr.Zero;
        }
    }

    internal sealed class Utf8List : IDisposable
    {
        private readonly List<Utf8> texts = new List<Utf8>();
        public Native.String[] Strings { get; }
        public UIntPtr Count => (UIntPtr)(uint)Strings.Length;

        public Utf8List(IReadOnlyList<string> given)
        {
            Strings = new Native.String[given.Count];
            for (var i = 0; i < given.Count; i++)
            {
                texts.Add(new Utf8(given[i]));
                Strings[i] = new Native.String { data = texts[i].Data, length = texts[i].Length };
            }
        }

        public void Dispose() => texts.ForEach(text => text.Dispose());
    }

    internal static class Native
    {
        /// <summary>RETTO_VERSION of the header these declarations are of.</summary>
        public const uint HeaderVersion = 0 * 1000000 + 1 * 1000 + 0;

        /// <summary>libretto.so, libretto.dylib or retto.dll, by the runtime's own rules.</summary>
        private const string Library = "retto";

        public delegate Status Body(out IntPtr error);

        /// <summary>A trainer that is given is cancelled if the process ends meanwhile.</summary>
        public static void Call(Body body, TrainerHandle trainer = null)
        {
            IntPtr error;
            Status status;
            Ending.Enter(trainer);
            try
            {
                status = body(out error);
            }
            finally
            {
                Ending.Leave(trainer);
            }
            var message = Take(error);
            if (status != Status.Ok) throw new RettoException(status, message);
        }

        /// <summary>Whether the library is one that these declarations are of.</summary>
        public static void CheckVersion() => Call((out IntPtr error) => retto_check_version(HeaderVersion, out error));

        public static void Check(Status status)
        {
            if (status != Status.Ok) throw new RettoException(status, "");
        }

        /// <summary>An error's message; the error is freed.</summary>
        public static string Take(IntPtr error)
        {
            var message = Text(retto_error_message(error));
            retto_error_free(error);
            return message;
        }

        public static UIntPtr Size<T>() => (UIntPtr)(uint)Marshal.SizeOf(typeof(T));

        public static string Text(IntPtr text)
        {
            var length = 0u;
            while (Marshal.ReadByte(text, (int)length) != 0) length++;
            return Text(text, (UIntPtr)length);
        }

        public static string Text(IntPtr text, UIntPtr length)
        {
            var bytes = new byte[(int)length];
            Marshal.Copy(text, bytes, 0, bytes.Length);
            return Encoding.UTF8.GetString(bytes);
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct String
        {
            public IntPtr data;
            public UIntPtr length;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct AdapterInfo
        {
            public uint structSize, index, adapterType, shaderF16;
            public IntPtr name, backend, driver;
            public ulong memoryBytes, maxStorageBufferBindingSize, maxBufferSize;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct GpuOptions
        {
            public uint structSize;
            public int adapterIndex;
            public uint powerPreference, allowSoftware;
            public IntPtr cacheDir;
            public UIntPtr cacheDirLength;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct ModelInfo
        {
            public uint structSize, hasMlmHead;
            public IntPtr name, maskToken;
            public ulong numParameters;
            public uint vocabSize, hiddenSize, numHiddenLayers, numAttentionHeads, intermediateSize, maxPositionEmbeddings;
            public uint dtype, reserved;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct Fill
        {
            public uint structSize, token;
            public float score;
            public uint reserved;
            public IntPtr tokenStr;
            public UIntPtr tokenStrLength;
            public IntPtr sequence;
            public UIntPtr sequenceLength;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct GoldRank
        {
            public uint structSize, token;
            public ulong rank;
            public float score;
            public uint reserved;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct EvaluationFound
        {
            public uint structSize, reserved;
            public double loss, perplexity, top1, top10;
            public ulong maskedTokens;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct EvaluationOptions
        {
            public uint structSize, wholeWordMask;
            public double mlmProbability, maskReplaceProb, randomReplaceProb;
            public uint perDeviceEvalBatchSize, maxSeqLength;
            public ulong seed;
            public IntPtr onProgress, userData;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct EmbedOptions
        {
            public uint structSize, pooling, normalize, maxSeqLength, strict, doLowerCase;
            public IntPtr onProgress, userData;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct TrainingOptions
        {
            public uint structSize, lrSchedulerType;
            public double numTrainEpochs;
            public ulong maxSteps;
            public double learningRate, warmupRatio, weightDecay, adamBeta1, adamBeta2, adamEpsilon, maxGradNorm;
            public double mlmProbability, maskReplaceProb, randomReplaceProb;
            public uint wholeWordMask, perDeviceTrainBatchSize, batchTokens, groupByLength, gradientAccumulationSteps;
            public uint perDeviceEvalBatchSize, maxSeqLength, freezeEmbeddings;
            public IntPtr freezeLayers;
            public UIntPtr freezeLayersCount;
            public uint loraR, gradientCheckpointing;
            public double loraAlpha;
            public IntPtr loraTargetModules;
            public UIntPtr loraTargetModulesCount;
            public uint dropout, fp16;
            public ulong evalSteps, earlyStoppingPatience;
            public double earlyStoppingThreshold;
            public ulong loggingSteps, seed;
            public IntPtr outputDir;
            public UIntPtr outputDirLength;
            public ulong saveSteps;
            public uint saveTotalLimit, loadBestModelAtEnd;
            public IntPtr devices;
            public UIntPtr devicesCount;
            public ulong ddpTimeout;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct Progress
        {
            public uint structSize, kind;
            public ulong step, maxSteps;
            public double epoch, loss, gradNorm, learningRate;
            public ulong tokens, maskedTokens;
            public double tokensPerSecond, secondsLeft, evalLoss, evalTop1, evalTop10;
            public ulong evalMaskedTokens;
            public IntPtr path;
            public uint isOver, reserved;
            public ulong done, total;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct TrainOutput
        {
            public uint structSize, cancelled, stoppedEarly, reserved;
            public ulong steps;
            public double epoch, trainLoss;
            public ulong samples, tokens, truncated;
            public double runtime, bestLoss;
            public ulong bestStep;
        }

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        public delegate int ProgressCallback(IntPtr progress, IntPtr userData);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        public delegate int CountCallback(ulong done, ulong total, IntPtr userData);

        private const CallingConvention C = CallingConvention.Cdecl;

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_check_version(uint headerVersion, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern IntPtr retto_error_message(IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_error_free(IntPtr error);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_adapters_list(out AdaptersHandle adapters, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern UIntPtr retto_adapters_count(AdaptersHandle adapters);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_adapters_get(AdaptersHandle adapters, UIntPtr index, ref AdapterInfo info, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_adapters_free(IntPtr adapters);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_options_init(ref GpuOptions options, UIntPtr size);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_open(ref GpuOptions options, out GpuHandle gpu, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_adapter(GpuHandle gpu, ref AdapterInfo info, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_memory_in_use(GpuHandle gpu, out ulong bytes, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_trim(GpuHandle gpu, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_gpu_free(IntPtr gpu);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_open(GpuHandle gpu, IntPtr path, UIntPtr length, out ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_open_with_adapter(GpuHandle gpu, IntPtr path, UIntPtr length, IntPtr adapter,
            UIntPtr adapterLength, out ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_open_with_dtype(GpuHandle gpu, IntPtr path, UIntPtr length, uint dtype,
            out ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_open_default(GpuHandle gpu, out ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_to_dtype(ModelHandle model, uint dtype, out ModelHandle copy, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_get_info(ModelHandle model, ref ModelInfo info, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_warm_up(ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_fill_mask_batch(ModelHandle model, [In] String[] texts, UIntPtr count, UIntPtr topK,
            out FillsHandle fills, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_rank_gold(ModelHandle model, IntPtr text, UIntPtr textLength, IntPtr gold,
            UIntPtr goldLength, ref GoldRank rank, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_evaluation_options_init(ref EvaluationOptions options, UIntPtr size);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_evaluate(ModelHandle model, [In] String[] lines, UIntPtr count,
            ref EvaluationOptions options, ref EvaluationFound found, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_save(ModelHandle model, IntPtr path, UIntPtr length, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_free(IntPtr model);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_fills_mask_count(FillsHandle fills, UIntPtr text, out UIntPtr count, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_fills_count(FillsHandle fills, UIntPtr text, UIntPtr mask, out UIntPtr count, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_fills_get(FillsHandle fills, UIntPtr text, UIntPtr mask, UIntPtr rank, ref Fill fill,
            out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_fills_free(IntPtr fills);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_embed_options_init(ref EmbedOptions options, UIntPtr size);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_embed_options_open(IntPtr folder, UIntPtr length, ref EmbedOptions options,
            out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_model_embed(ModelHandle model, [In] String[] texts, UIntPtr count,
            ref EmbedOptions options, out EmbeddingsHandle embeddings, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern UIntPtr retto_embeddings_count(EmbeddingsHandle embeddings);
        [DllImport(Library, CallingConvention = C)]
        public static extern UIntPtr retto_embeddings_dimension(EmbeddingsHandle embeddings);
        [DllImport(Library, CallingConvention = C)]
        public static extern UIntPtr retto_embeddings_truncated(EmbeddingsHandle embeddings);
        [DllImport(Library, CallingConvention = C)]
        public static extern IntPtr retto_embeddings_values(EmbeddingsHandle embeddings);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_embeddings_free(IntPtr embeddings);

        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_training_options_init(ref TrainingOptions options, UIntPtr size);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_new(ModelHandle model, ref TrainingOptions options, out TrainerHandle trainer,
            out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_add_lines(TrainerHandle trainer, uint split, [In] String[] lines, UIntPtr count,
            out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_add_file(TrainerHandle trainer, uint split, IntPtr path, UIntPtr length,
            out UIntPtr count, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_run(TrainerHandle trainer, ProgressCallback progress, IntPtr userData,
            ref TrainOutput output, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_step(TrainerHandle trainer, ref Progress progress, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_cancel(TrainerHandle trainer, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_resume(TrainerHandle trainer, out ulong step, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_checkpoint(TrainerHandle trainer, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_model(TrainerHandle trainer, out ModelHandle model, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_save(TrainerHandle trainer, IntPtr path, UIntPtr length, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_save_adapter(TrainerHandle trainer, IntPtr path, UIntPtr length, IntPtr baseModel,
            UIntPtr baseModelLength, out IntPtr error);
        [DllImport(Library, CallingConvention = C)]
        public static extern Status retto_trainer_free(IntPtr trainer);
    }
}
